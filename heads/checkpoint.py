"""A head as two byte strings, head.json and head.safetensors, and back. Numbers and JSON only, never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from heads.config import TrainConfig
from heads.model import Architecture, HeadModel
from heads.problems import refuse
from heads.tasks import Task, task_class
from wsi.errors import ArtefactError, UsageError

FORMAT, VERSION = "mil-head", 1
WEIGHTS, CARD = "head.safetensors", "head.json"


@dataclass(frozen=True, slots=True)
class HeadCard:
    """What a head is, beside its weights: the content of head.json."""

    architecture: Architecture
    task: Task
    encoder_digest: str  # of the bags it was trained on, and of the only ones it takes
    config: TrainConfig
    n_bags: int
    losses: tuple[float, ...]  # mean training loss of each epoch: shows whether it has settled
    versions: dict[str, str]  # of what wrote it


def pack(card: HeadCard, model: HeadModel) -> tuple[bytes, bytes]:
    """Contents of head.json and head.safetensors. Equal heads give equal bytes."""
    weights = tensors_to_bytes({name: t.contiguous() for name, t in model.state_dict().items()})
    fields = asdict(card)
    fields["task"] = {"kind": card.task.kind, **fields["task"]}
    sha = hashlib.sha256(weights).hexdigest()
    written = json.dumps({"format": FORMAT, "version": VERSION, **fields, "weights_sha256": sha}, indent=2)
    return written.encode(), weights


def unpack(written: bytes, weights: bytes, source: str) -> tuple[HeadCard, HeadModel]:
    """What `pack` packed; `source` names it in errors. Raises ArtefactError for anything else, and newer versions."""
    record = _record(written, source)
    if hashlib.sha256(weights).hexdigest() != record.get("weights_sha256"):
        raise _damaged(source, f"{WEIGHTS} is not the file {CARD} was written with")
    try:
        card = _card(record)
        tensors = tensors_from_bytes(weights)
    except (KeyError, AttributeError, TypeError, ValueError, UsageError, SafetensorError) as error:
        raise _damaged(source, f"{type(error).__name__}: {error}") from error
    return card, _model(card.architecture, tensors, source)


def _record(written: bytes, source: str) -> dict[str, Any]:
    try:
        record = json.loads(written)
    except ValueError as error:
        raise _damaged(source, f"{CARD} is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise _damaged(source, f"{CARD} does not describe a head")
    if record.get("version") != VERSION:
        raise ArtefactError(
            f"{source}: this head is of format version {record.get('version')}; version {VERSION} is known here.",
            hint="Use the version of the toolkit that wrote it, or train it anew.",
            path=source,
        )
    return record


def _card(record: dict[str, Any]) -> HeadCard:
    facts = dict(record["task"])
    kind = task_class(facts.pop("kind"))
    card = HeadCard(
        architecture=Architecture(**record["architecture"]),
        task=kind(**{name: tuple(value) for name, value in facts.items()}),
        encoder_digest=record["encoder_digest"],
        config=TrainConfig(**record["config"]),
        n_bags=record["n_bags"],
        losses=tuple(record["losses"]),
        versions=record["versions"],
    )
    if card.task.n_out != card.architecture.n_out:
        raise ValueError(f"{card.architecture.n_out} outputs for a task of {card.task.n_out}")
    return card


def _model(architecture: Architecture, tensors: dict[str, Tensor], source: str) -> HeadModel:
    with torch.device("meta"):  # no memory, and no random numbers drawn from the caller's generator
        model = architecture.build()
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    problems = [
        f"{name} is {given.get(name, 'missing')}, wanted is {wanted.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | given.keys())
        if wanted.get(name) != given.get(name)
    ]
    refuse(problems, f"{source}: the weights do not fit", "Restore the folder, or train it anew.", ArtefactError)
    model.load_state_dict(tensors, assign=True)
    return model


def _damaged(source: str, why: str) -> ArtefactError:
    return ArtefactError(
        f"{source}: the head is damaged ({why}).", hint="Restore the folder from a copy, or train it anew.", path=source
    )
