"""Which scores and maps of an output folder are shown: of the words, weights and heads in force, and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from features import FeatureGrid
from heads.config import CARD, WEIGHTS
from pipeline import ledger
from pipeline.config import load_config
from pipeline.output import OutputFolder, SlideFolder
from pipeline.pictures import HEAD, DrawnMap, drawn_maps
from pipeline.record import SlideRecord
from pipeline.zeroshot import current_scores, default_prompts, network_digest, words_digest
from wsi.errors import ArtefactError, UsageError


@dataclass(frozen=True, slots=True)
class InForce:
    """What scores and maps must have been made with to be shown."""

    words: str  # see `words_digest`; "" without prompts
    network: str  # see `network_digest`: of the features made last; "" where there are none
    heads: Mapping[str, str]  # name -> `TrainedHead.digest` of those in OUT/heads

    @classmethod
    def of(cls, out: OutputFolder) -> InForce:
        """As the folder's run.toml says. No encoder is loaded: its weights are told by the features made last.

        Where run.toml names a prompt file that is gone or damaged, the words that all slides were scored with.
        """
        network, heads = _last_network(out), _saved_heads(out)
        try:
            config = load_config(out.config)
            prompts = default_prompts(config.zeroshot.prompts, config.encoder.name)
        except UsageError:
            return cls(_common_words(out, network), network, heads)
        return cls("" if prompts is None else words_digest(prompts, config.zeroshot), network, heads)

    def scores(self, folder: SlideFolder, record: SlideRecord) -> dict[str, Any] | None:
        """The slide's scores, if they are of its current features and of what is in force."""
        found = current_scores(folder, record)
        if found is None or not (self.words and self.network):
            return None
        return found if (found.get("words"), found.get("network")) == (self.words, self.network) else None

    def maps(self, folder: SlideFolder, record: SlideRecord) -> Iterator[DrawnMap]:
        """The slide's heatmaps that are of its current features, and of the words in force or of a head.

        Of heads that do not lie in the output folder nobody knows whether they were trained anew.
        """
        for drawn in drawn_maps(folder, record):
            if drawn.source.startswith(HEAD):
                wanted = self.heads.get(drawn.source.removeprefix(HEAD), drawn.made_by)
            else:
                wanted = self.words
            if wanted and drawn.made_by == wanted:
                yield drawn


def readable_record(folder: SlideFolder) -> SlideRecord | None:
    """The slide's record; None where there is none or it cannot be understood."""
    try:
        return SlideRecord.read(folder)
    except ArtefactError:
        return None


def _last_network(out: OutputFolder) -> str:
    """Of the slide that ended well last: of the encoder that run.toml names, as it was."""
    ended = [e["slide_id"] for e in ledger.events(out.ledger) if e["event"] == "slide" and e["status"] in ledger.GOOD]
    for slide_id in reversed(ended):
        folder = out.slide(slide_id)
        record = readable_record(folder)
        try:
            if record is not None:
                return network_digest(FeatureGrid.open(folder.features / record.current).encoder)
        except ArtefactError:
            continue  # damaged: the slide before it tells the same, or is told in its own place
    return ""


def _saved_heads(out: OutputFolder) -> dict[str, str]:
    """Digests as heads have them, from their files: nothing is loaded."""
    return {
        folder.name: hashlib.sha256(b"".join((folder / name).read_bytes() for name in (CARD, WEIGHTS))).hexdigest()
        for folder in out.path.glob("heads/*")
        if all((folder / name).is_file() for name in (CARD, WEIGHTS))
    }


def _common_words(out: OutputFolder, network: str) -> str:
    """What all scores in the folder were made with; "" if they differ."""
    said = set()
    for slide_id, outcome in ledger.last_outcomes(out.ledger).items():
        record = readable_record(out.slide(slide_id)) if outcome.good else None
        found = None if record is None else current_scores(out.slide(slide_id), record)
        if found is not None and found.get("network") == network:
            said.add(found["words"])
    return said.pop() if len(said) == 1 else ""
