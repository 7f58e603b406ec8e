"""A trained head: scores bags, is saved as numbers and JSON, and comes back bit for bit."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from heads.bag import BagLike, SlideScore
from heads.checkpoint import HeadCard, pack, unpack
from heads.config import CARD, WEIGHTS
from heads.feed import tensors
from heads.member import Member
from heads.model import HeadModel
from heads.tasks import Classification
from wsi.errors import EncoderMismatch, NoSpace, StorageError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHead:
    """Bag in, score out. Made by `train_head`, `cross_validate` or `load_head`; not to be trained further."""

    card: HeadCard
    members: tuple[Member, ...] = field(repr=False)
    digest: str = field(init=False)  # SHA-256 over the bytes of head.json, then head.safetensors; saved or not

    def __post_init__(self) -> None:
        for member in self.members:
            member.model.eval()
        object.__setattr__(self, "digest", hashlib.sha256(b"".join(self._packed())).hexdigest())

    @property
    def model(self) -> HeadModel:
        """The first member's network."""
        return self.members[0].model

    def score(self, bag: BagLike, members: Sequence[int] | None = None) -> SlideScore:
        """The slide's values, with attention as `per_tile`, (N,) or (N, n_out). `detail` says what the values are.

        classification: (C,) probabilities; survival: (1,) risk, higher = worse; biomarker: (k,) probabilities;
        regression: (1,) in the unit of the targets. With several members values and attention are means over them, and
        `detail["spread"]` is the values' standard deviation: what other training patients would change, not other first
        weights, which all members share. `members` takes some of them, by number.
        Raises EncoderMismatch for features of another encoder or tile, UsageError for a bag without tiles.
        """
        self._refuse_foreign(bag)
        chosen = self._chosen(members)
        found = [(m, *m.outputs(bag)) for m in chosen]
        each = np.stack([m.values(outputs) for m, outputs, _ in found])  # (members, values)
        values = each.mean(axis=0)
        detail = {"task": self.card.task.kind, "slide_id": bag.slide_id, **self.card.task.detail(values)}
        if len(chosen) > 1:
            detail |= {"members": len(chosen), "spread": each.std(axis=0).tolist()}
        attention = torch.stack([a for _, _, a in found]).mean(dim=0).numpy()
        return SlideScore(values, attention, self.digest, detail)

    def contribution(self, bag: BagLike, members: Sequence[int] | None = None) -> NDArray[np.float32] | None:
        """(N, n_out) what each tile adds to each output: attention times evidence, mean over the members.

        Of classes, which compete, what it adds beyond its mean over the classes. None for heads without evidence.
        """
        self._refuse_foreign(bag)
        x, each = tensors([bag.load()]), []
        for m in self._chosen(members):
            _, attention = m.outputs(bag)
            with torch.inference_mode():
                evidence = m.model.evidence(x.to(m.model.mean.device))
            if evidence is None:
                return None
            told = evidence.float().cpu()
            if isinstance(self.card.task, Classification):
                told = told - told.mean(dim=1, keepdim=True)
            each.append((attention[:, None] if attention.ndim == 1 else attention) * told)
        return torch.stack(each).mean(dim=0).numpy()

    def thresholds(self, members: Sequence[int] | None = None) -> NDArray[np.float64] | None:
        """(1 or k,) above which the second of two classes, or a biomarker, is called: mean of the members that answer.

        A member that had too few patients to choose by counts as 0.5. None where no member chose, and for other tasks.
        """
        found = [m.card.thresholds for m in self._chosen(members)]
        n = max((len(t) for t in found), default=0)
        return np.mean([t or (0.5,) * n for t in found], axis=0) if n else None

    def survival(self, bag: BagLike, times: Any, members: Sequence[int] | None = None) -> NDArray[np.float64]:
        """(T,) chance to live beyond each time, mean over the members.

        Raises UsageError for tasks without time.
        """
        self._refuse_foreign(bag)
        at = np.asarray(times, dtype=np.float64)
        curves = [m.survival(m.outputs(bag)[0], at) for m in self._chosen(members)]
        return np.mean(curves, axis=0)

    def save(self, folder: str | Path) -> Path:
        """Write head.safetensors, then head.json, each under another name first. Gives the folder.

        Raises NoSpace or StorageError where that cannot be done.
        """
        folder = Path(folder)
        card, weights = self._packed()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in ((WEIGHTS, weights), (CARD, card)):
                part = folder / f"{name}.part"
                part.write_bytes(content)
                part.replace(folder / name)
        except OSError as error:
            kind = NoSpace if error.errno == errno.ENOSPC else StorageError
            why = f"{folder}: the head cannot be saved ({error.strerror})."
            raise kind(why, hint="Make room or choose another folder.", path=str(folder)) from error
        return folder

    def _chosen(self, members: Sequence[int] | None) -> list[Member]:
        return list(self.members) if members is None else [self.members[i] for i in members]

    def _packed(self) -> tuple[bytes, bytes]:
        return pack(self.card, [m.model for m in self.members])

    def _refuse_foreign(self, bag: BagLike) -> None:
        ours, theirs = self.card.encoder_digest, bag.encoder_digest
        if theirs != ours:
            raise EncoderMismatch(
                f"The features of slide {bag.slide_id!r} are of encoder {theirs[:12]}; this head is for {ours[:12]}.",
                hint="Extract the slide with the head's encoder, or train a head on these features.",
                bag_encoder=theirs,
                head_encoder=ours,
            )
        if bag.tile and self.card.tile and bag.tile != self.card.tile:
            raise EncoderMismatch(
                f"The tiles of slide {bag.slide_id!r} are {bag.tile}; this head was trained on {self.card.tile}.",
                hint="Extract the slide with the head's tile size, mpp and stain, or train a head on these tiles.",
            )
        in_dim = self.members[0].card.architecture.in_dim
        if bag.dim != in_dim:
            raise EncoderMismatch(f"Slide {bag.slide_id!r} has {bag.dim} features a tile; this head takes {in_dim}.")
        if not len(bag):
            raise UsageError(f"Slide {bag.slide_id!r} has no tiles to score.", hint="Look at its tissue mask.")


def load_head(folder: str | Path) -> TrainedHead:
    """The head that `TrainedHead.save` wrote; its scores are the same bit for bit.

    Raises UsageError where there is none, ArtefactError where it is damaged or of a format not known here.
    """
    folder = Path(folder)
    try:
        card, weights = (folder / CARD).read_bytes(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise UsageError(
            f"{folder}: there is no head here ({Path(error.filename).name}: {error.strerror}).",
            hint=f"A head is a folder with {CARD} and {WEIGHTS}, as `save` writes it.",
            path=str(folder),
        ) from error
    return TrainedHead(*unpack(card, weights, str(folder)))
