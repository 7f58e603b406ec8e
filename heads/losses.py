"""Survival losses: Cox's partial likelihood and the discrete-time hazard likelihood. Float in, float out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from wsi.errors import UsageError


def cox_loss(risk: Tensor, time: Any, event: Any, ties: str = "efron") -> Tensor:
    """Negative log partial likelihood divided by the number of events, a scalar tensor to differentiate.

    risk (B,) log hazard ratio, higher = worse; time (B,) of event or censoring; event (B,) 1 seen, 0 censored.
    `ties` says how events at one time share their risk set: "efron" (Efron 1977) or "breslow" (Breslow 1974);
    without ties both are the same. Without any event the loss is 0 with gradient 0: such a batch says nothing.

    Stable for risks of any size: sums over risk sets are cumulative log-sum-exps. O(B log B).
    Raises UsageError for shapes that differ, an unknown `ties`, or an event that is neither 0 nor 1.
    """
    if ties not in ("efron", "breslow"):
        raise UsageError(f"ties is 'efron' or 'breslow', not {ties!r}.")
    time, event = torch.as_tensor(time, device=risk.device), torch.as_tensor(event, device=risk.device)
    _check(event, risk=risk, time=time, event=event)
    if not event.any():
        return (risk * 0).sum()
    latest_first = torch.argsort(time, descending=True, stable=True)
    eta, died = risk[latest_first], event[latest_first].bool()
    _, group, size = torch.unique_consecutive(time[latest_first], return_inverse=True, return_counts=True)
    last = size.cumsum(0) - 1  # (G,) of each distinct time, its last row: the risk set is all rows up to it
    at_risk = eta.logcumsumexp(0)[last][group]  # (B,)
    log_share = (eta - at_risk)[died]  # (d,)
    if ties == "efron":
        log_share = log_share - _efron_correction(log_share, group[died])
    return -log_share.mean()


def _efron_correction(log_share: Tensor, group: Tensor) -> Tensor:
    """How much smaller the risk set is for the l-th (from 0) of the d deaths of one time: log(1 - l/d sum of shares).

    log_share (n,) log of each dying patient's part of the risk set; group (n,) its time, ascending or descending.
    """
    _, time, deaths = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    first = deaths.cumsum(0) - deaths
    rank = torch.arange(len(time), device=time.device) - first[time]  # (n,) l
    dying = torch.zeros(len(deaths), dtype=log_share.dtype, device=log_share.device)
    dying = dying.index_add(0, time, log_share.exp())
    return torch.log1p(-(rank / deaths[time]) * dying[time])


def discrete_hazard_loss(logits: Tensor, bin: Any, event: Any, alpha: float = 0.0) -> Tensor:
    """Negative log likelihood of discrete-time survival, mean over B, a scalar tensor to differentiate.

    logits (B, bins): hazard of dying in a bin, having lived so far, is sigmoid(logit); bin (B,) whole numbers, of the
    event or censoring; event (B,) 1 seen, 0 censored. With S the survival past a bin,

        event:     -log S[bin - 1] - log hazard[bin]
        censored:  -(1 - alpha) log S[bin]

    so `alpha` in 0..1 takes weight from the censored (Zadeh and Schmid, TPAMI 2021); 0 is the likelihood itself.
    Logs are exact, without a clamp. Raises UsageError for bad shapes, bins beyond the last, alpha outside 0..1.
    """
    bin, event = torch.as_tensor(bin, device=logits.device), torch.as_tensor(event, device=logits.device)
    if logits.ndim != 2:
        raise UsageError(f"logits are (slides, bins), not {tuple(logits.shape)}.")
    _check(event, logits=logits[:, 0], bin=bin, event=event)
    if bin.is_floating_point() or len(bin) == 0 or bin.min() < 0 or bin.max() >= logits.shape[1]:
        raise UsageError(f"bin holds whole numbers from 0 to {logits.shape[1] - 1}, at least one.")
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is between 0 and 1, not {alpha}.")
    at = bin.long()[:, None]  # (B, 1)
    survive = logsigmoid(-logits)  # (B, bins) log(1 - hazard)
    past = survive.cumsum(1).gather(1, at)[:, 0]  # (B,) log S[bin]
    dead = past - survive.gather(1, at)[:, 0] + logsigmoid(logits).gather(1, at)[:, 0]
    return -torch.where(event.bool(), dead, (1 - alpha) * past).mean()


def _check(seen: Tensor, **columns: Tensor) -> None:
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or seen.ndim != 1:
        raise UsageError(f"One number per slide is needed in each: {shapes}.")
    if not ((seen == 0) | (seen == 1)).all():
        raise UsageError("event is 1 where the event was seen and 0 where the slide was censored.")
