"""A head as two byte strings, head.json and head.safetensors, and back. Numbers and JSON only, never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from heads.config import CARD, WEIGHTS, TrainConfig
from heads.member import Member, MemberCard
from heads.model import HeadModel
from heads.networks.registry import Architecture
from heads.problems import refuse
from heads.tasks import Task, task_class
from wsi.errors import ArtefactError, UsageError

FORMAT, VERSION = "mil-head", 3


@dataclass(frozen=True, slots=True)
class HeadCard:
    """What a head is, beside its weights: the content of head.json."""

    members: tuple[MemberCard, ...]  # one, or one for each fold
    encoder_digest: str  # of the bags it was trained on, and of the only ones it takes
    tile: str  # what a tile of those bags is, "" where that is not known
    config: TrainConfig
    versions: dict[str, str]  # of what wrote it
    about: dict[str, Any] = field(default_factory=dict)  # plain JSON: folds, metrics, where the bags came from

    @property
    def task(self) -> Task:
        return self.members[0].task

    @property
    def n_bags(self) -> int:
        return self.members[0].n_bags

    @property
    def losses(self) -> tuple[float, ...]:
        return self.members[0].losses


def pack(card: HeadCard, models: list[HeadModel]) -> tuple[bytes, bytes]:
    """Contents of head.json and head.safetensors. Equal heads give equal bytes."""
    weights = tensors_to_bytes(
        {f"{i}.{name}": t.contiguous() for i, model in enumerate(models) for name, t in model.state_dict().items()}
    )
    fields = asdict(card)
    for member, written in zip(card.members, fields["members"], strict=True):
        written["task"] = {"kind": member.task.kind, **written["task"]}
    sha = hashlib.sha256(weights).hexdigest()
    record = {"format": FORMAT, "version": VERSION, **fields, "weights_sha256": sha}
    return json.dumps({**record, "card_sha256": _sealed(record)}, indent=1).encode(), weights


def _sealed(record: dict[str, Any]) -> str:
    """SHA-256 of all that head.json says but this: a class renamed by hand would rename every answer."""
    told = {name: value for name, value in record.items() if name != "card_sha256"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def unpack(written: bytes, weights: bytes, source: str) -> tuple[HeadCard, tuple[Member, ...]]:
    """What `pack` packed; `source` names it in errors. Raises ArtefactError for anything else, and newer versions."""
    record = _record(written, source)
    if record.get("card_sha256") != _sealed(record):
        raise _damaged(source, f"{CARD} was changed after it was written")
    if hashlib.sha256(weights).hexdigest() != record.get("weights_sha256"):
        raise _damaged(source, f"{WEIGHTS} is not the file {CARD} was written with")
    try:
        card = _card(record)
        tensors = tensors_from_bytes(weights)
    except (KeyError, AttributeError, TypeError, ValueError, UsageError, SafetensorError) as error:
        raise _damaged(source, f"{type(error).__name__}: {error}") from error
    models = _models(card, tensors, source)
    return card, tuple(Member(m, model) for m, model in zip(card.members, models, strict=True))


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
    members = tuple(_member(m) for m in record["members"])
    if not members:
        raise ValueError("it has no members")
    return HeadCard(
        members=members,
        encoder_digest=record["encoder_digest"],
        tile=record["tile"],
        config=TrainConfig(**record["config"]),
        versions=record["versions"],
        about=record["about"],
    )


def _member(record: dict[str, Any]) -> MemberCard:
    facts = dict(record["task"])
    kind = task_class(facts.pop("kind"))
    task = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})
    architecture = Architecture(**record["architecture"])
    if task.n_out != architecture.n_out:
        raise ValueError(f"{architecture.n_out} outputs for a task of {task.n_out}")
    known = {**record, "architecture": architecture, "task": task}
    known["baseline"] = tuple(tuple(column) for column in record["baseline"])
    for name in ("losses", "validation_losses", "temperature", "thresholds"):
        known[name] = tuple(record[name])
    return MemberCard(**known)


def _models(card: HeadCard, tensors: dict[str, Tensor], source: str) -> list[HeadModel]:
    with torch.device("meta"):  # no memory, and no random numbers drawn from the caller's generator
        models = [HeadModel(_built(member.architecture, source)) for member in card.members]
    wanted = {f"{i}.{name}": tuple(t.shape) for i, m in enumerate(models) for name, t in m.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    problems = [
        f"{name} is {given.get(name, 'missing')}, wanted is {wanted.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | given.keys())
        if wanted.get(name) != given.get(name)
    ]
    refuse(problems, f"{source}: the weights do not fit", "Restore the folder, or train it anew.", ArtefactError)
    for i, model in enumerate(models):
        prefix = f"{i}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        model.load_state_dict(own, assign=True)
    return models


def _built(architecture: Architecture, source: str) -> Any:
    try:
        return architecture.build()
    except UsageError as error:
        raise ArtefactError(f"{source}: {error.message}", hint=f"{error.hint} Install what trained it.") from error


def _damaged(source: str, why: str) -> ArtefactError:
    return ArtefactError(
        f"{source}: the head is damaged ({why}).", hint="Restore the folder from a copy, or train it anew.", path=source
    )
