"""What is learnt after the weights: temperature and thresholds on bags kept back, the risk's zero on training bags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heads.feed import Feed
from heads.member import Member, MemberCard
from heads.metrics.calibration import fit_temperature, fit_temperature_binary
from heads.metrics.classification import youden_threshold
from heads.metrics.survival import breslow_baseline
from heads.targets import take
from heads.tasks import Biomarker, Classification, DiscreteHazard, Survival


def calibrated(
    member: Member, feed: Feed, targets: Any, training: NDArray[np.int64], validation: NDArray[np.int64]
) -> Member:
    """The member with its temperature and thresholds (from `validation`) or its centre and baseline (`training`)."""
    task = member.card.task
    if isinstance(task, Survival | DiscreteHazard):
        card = _centred(member, _outputs(member, feed, training), task.rows(take(targets, training)))
    elif isinstance(task, Classification | Biomarker) and len(validation):
        rows = task.rows(take(targets, validation)).numpy()
        card = _tempered(member.card, _outputs(member, feed, validation).double().numpy(), rows)
    else:
        card = member.card
    return Member(card, member.model)


def _outputs(member: Member, feed: Feed, rows: NDArray[np.int64]) -> Tensor:
    return torch.stack([member.outputs(feed.bags[int(i)])[0] for i in rows])


def _centred(member: Member, outputs: Tensor, rows: Tensor) -> MemberCard:
    """The mean risk of the training bags is 0, their median the cut; Cox has the baseline hazard that goes with it."""
    card = replace(member.card, centre=float(member.values(outputs).mean()))
    risk = Member(card, member.model).values(outputs)[:, 0].astype(np.float64)
    card = replace(card, cut=float(np.median(risk)))
    if isinstance(card.task, DiscreteHazard):
        return card
    time, event = rows.numpy().T
    baseline = breslow_baseline(time, event, risk)
    return replace(card, baseline=(tuple(baseline.times.tolist()), tuple(baseline.log_cumulative.tolist())))


def _tempered(card: MemberCard, outputs: NDArray[np.float64], rows: NDArray[Any]) -> MemberCard:
    if isinstance(card.task, Classification):
        t = fit_temperature(outputs, rows)
        found = (_threshold(rows == 1, _sigmoid((outputs[:, 1] - outputs[:, 0]) / t)),) if card.task.n_out == 2 else ()
        return replace(card, temperature=(t,), thresholds=found)
    temperatures, thresholds = [], []
    for y, z in zip(rows.T, outputs.T, strict=True):
        known = ~np.isnan(y)
        t = fit_temperature_binary(z[known], y[known])
        temperatures.append(t)
        thresholds.append(_threshold(y[known] == 1, _sigmoid(z[known] / t)))
    return replace(card, temperature=tuple(temperatures), thresholds=tuple(thresholds))


def _threshold(y: NDArray[np.bool_], p: NDArray[np.float64]) -> float:
    return youden_threshold(y.astype(int), p) if 0 < y.sum() < len(y) else 0.5


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-z))
