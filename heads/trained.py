"""A trained head: scores bags, is saved as numbers and JSON, and comes back bit for bit."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from heads.bag import Bag, SlideScore
from heads.checkpoint import CARD, WEIGHTS, HeadCard, pack, unpack
from heads.model import HeadModel
from wsi.errors import EncoderMismatch, NoSpace, StorageError, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHead:
    """Bag in, score out. Made by `train_head` or `load_head`; not to be trained further."""

    card: HeadCard
    model: HeadModel = field(repr=False)
    digest: str = field(init=False)  # SHA-256 over the bytes of head.json, then head.safetensors; saved or not

    def __post_init__(self) -> None:
        self.model.eval()
        object.__setattr__(self, "digest", hashlib.sha256(b"".join(pack(self.card, self.model))).hexdigest())

    def score(self, bag: Bag) -> SlideScore:
        """The slide's values, with attention (N,) as `per_tile`. `detail` says what the values are.

        classification: (C,) probabilities; survival: (1,) risk, higher = worse; biomarker: (k,) probabilities.
        Raises EncoderMismatch for features of another encoder, UsageError for a bag without tiles.
        """
        self._refuse_foreign(bag)
        with torch.inference_mode():
            outputs, attention = self.model(torch.from_numpy(bag.x))
            values = self.card.task.values(outputs).numpy()
        detail = {"task": self.card.task.kind, "slide_id": bag.slide_id, **self.card.task.detail(values)}
        return SlideScore(values, attention.numpy(), self.digest, detail)

    def save(self, folder: str | Path) -> Path:
        """Write head.safetensors, then head.json, each under another name first. Gives the folder.

        Raises NoSpace or StorageError where that cannot be done.
        """
        folder = Path(folder)
        card, weights = pack(self.card, self.model)
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

    def _refuse_foreign(self, bag: Bag) -> None:
        ours, theirs = self.card.encoder_digest, bag.encoder_digest
        if theirs != ours:
            raise EncoderMismatch(
                f"The features of slide {bag.slide_id!r} are of encoder {theirs[:12]}; this head is for {ours[:12]}.",
                hint="Extract the slide with the head's encoder, or train a head on these features.",
                bag_encoder=theirs,
                head_encoder=ours,
            )
        in_dim = self.card.architecture.in_dim
        if bag.x.shape[1] != in_dim:
            raise EncoderMismatch(
                f"Slide {bag.slide_id!r} has {bag.x.shape[1]} features a tile; this head takes {in_dim}."
            )
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
