"""Prompts over cached features: a slide's scores, its label, its map. No slide is opened here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features import FeatureGrid
from features.spec import Encoder, EncoderSpec
from heads import (
    Bag,
    PromptSet,
    ensemble,
    load_prompts,
    prompt_spread,
    text_bank,
    tile_similarity,
    zero_shot,
    zero_shot_pooled,
    zero_shot_probabilities,
)
from heads.bag import kept_rows
from pipeline.config import PictureConfig, ZeroShotConfig
from pipeline.geojson import TileLayer
from pipeline.heatmap import PROBABILITY
from pipeline.output import SlideFolder
from pipeline.pictures import TileScores, write_heatmap, write_tile_geojson
from pipeline.record import SlideRecord
from wsi.errors import EncoderMismatch, GridDamaged
from wsi.identity import digest, file_sha256

UNTRAINED = "The encoder's weights are random (--untrained): its scores mean nothing."
DEFAULT_PROMPTS = "tumour-normal"
NO_PROMPTS = "none"
_MAX_NAME = 80  # of a map's file, before its digest


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """Everything needed to score a slide's features against one set of prompts."""

    prompts: PromptSet
    bank: tuple[NDArray[np.float32], ...]  # per class (names, templates, D), unit
    logit_scale: float  # natural log
    config: ZeroShotConfig
    untrained: bool
    network: str  # which weights the words went through

    @classmethod
    def of(cls, prompts: PromptSet, encoder: Encoder, config: ZeroShotConfig) -> Scorer:
        bank = text_bank(prompts, encoder)
        return cls(prompts, bank, encoder.logit_scale, config, encoder.spec.untrained, network_digest(encoder.spec))

    def how(self, grid: FeatureGrid) -> dict[str, Any]:
        """What every comparison of a slide's tiles has in common."""
        return {
            "logit_scale": self.logit_scale,
            "smooth_over": grid.grid.keep.shape if self.config.smooth else None,
        }

    def bag_of(self, folder: SlideFolder, record: SlideRecord) -> tuple[FeatureGrid, Bag]:
        """A slide's features. Raises EncoderMismatch where they are not of the network that read the prompts.

        The precision they were computed in may differ: features of a GPU are scored on a CPU.
        """
        grid = FeatureGrid.open(folder.features / record.current)
        if network_digest(grid.encoder) != self.network:
            raise EncoderMismatch(
                f"{grid.path}: features of {grid.encoder.name} with other weights than the prompts' encoder has.",
                hint="Run `wsi run` again with the encoder and weights you want.",
            )
        return grid, Bag.from_grid(grid, self.config.drop)

    def tile_scores(self, tiles: TileMap, name: str, title: str, values: NDArray[np.float32]) -> TileScores:
        """A map of the prompts, (M,) probabilities, as it is to be drawn."""
        return TileScores(name, title, tiles.full(values), PROBABILITY, f"prompts {self.prompts.name}", self.words)

    @property
    def words(self) -> str:
        return words_digest(self.prompts, self.config)

    @property
    def key(self) -> str:
        """Changes with every word, setting and weight that a score depends on."""
        return digest(self.words, self.network, self.logit_scale)


@dataclass(frozen=True, slots=True, eq=False)
class TileMap:
    """What the prompts say of every tile of a slide."""

    grid: FeatureGrid
    rows: NDArray[np.int64]  # (M,) the tiles that were read and not dropped, as indices into the grid's N
    p: NDArray[np.float32]  # (M, C) softmax over all classes, context included

    @classmethod
    def of(cls, grid: FeatureGrid, bag: Bag, scorer: Scorer) -> TileMap:
        similarity = tile_similarity(bag, ensemble(scorer.bank), scorer.how(grid)["smooth_over"])
        p = zero_shot_probabilities(similarity, scorer.logit_scale)
        return cls(grid, np.flatnonzero(kept_rows(grid, scorer.config.drop)), p)

    def full(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """(M,) values as (N,), NaN where a tile could not be read or was dropped."""
        out = np.full(len(self.grid), np.nan, np.float32)
        out[self.rows] = values
        return out


def network_digest(spec: EncoderSpec) -> str:
    """Changes with the weights, not with the precision they computed in."""
    return digest(replace(spec, precision=""))


def words_digest(prompts: PromptSet, config: ZeroShotConfig) -> str:
    """Changes with every word and setting of the scores, not with where the prompts were found."""
    return digest(prompts, replace(config, prompts=""))


def default_prompts(asked: str, encoder_name: str) -> PromptSet | None:
    """The prompt set asked for, or the one that goes with the encoder; None for none. Raises PromptError."""
    if asked == NO_PROMPTS:
        return None
    return load_prompts(asked or ("demo" if encoder_name == "demo" else DEFAULT_PROMPTS))


def score_slide(folder: SlideFolder, record: SlideRecord, scorer: Scorer, pictures: PictureConfig) -> bool:
    """Writes zeroshot.json, heatmaps and the tiles' GeoJSON of a slide, unless they are there for the same inputs.

    False where no tile of the slide could be read: there is nothing to score then. Where tiles were read and all of
    them dropped, that is the result: no label, and why.
    """
    key = digest(scorer.key, record.current, record.facts.fingerprint, pictures)
    before = current_scores(folder, record)
    if before is not None and before["key"] == key and _all_there(folder, before):
        return True
    grid, bag = scorer.bag_of(folder, record)
    if not kept_rows(grid).any():
        return False
    if len(bag):
        tiles = TileMap.of(grid, bag, scorer)
        result = _scored(bag, tiles, scorer) | {
            "tiles_shown": _extremes(tiles, scorer, pictures),
            "heatmaps": (maps := draw_maps(folder, record, tiles, scorer, pictures)),
            "layer_sha256": file_sha256(folder.zeroshot_layer) if maps else "",
        }
    else:
        result = _emptied(scorer, len(grid))
    made_from = {"key": key, "grid": record.current, "fingerprint": record.facts.fingerprint}
    made_from |= {"words": scorer.words, "network": scorer.network}
    folder.write_zeroshot({**made_from, **result})
    return True


def nothing_left(tiles: int, drop: Sequence[str]) -> str:
    """Why a slide with tiles has no score, as half a sentence."""
    flags = ", ".join(drop)
    return f"no tile is left to score: of {tiles}, each has a quality flag that is dropped ({flags}) or was unreadable"


def _all_there(folder: SlideFolder, scores: dict[str, Any]) -> bool:
    """Every map with what belongs to it, and QuPath's layer."""
    drawn = [folder.path / m["file"] for m in scores["heatmaps"]]
    files = [picture.with_suffix(suffix) for picture in drawn for suffix in (".png", ".npy", ".json")]
    return all(path.exists() for path in files) and (not drawn or folder.zeroshot_layer.exists())


def current_scores(folder: SlideFolder, record: SlideRecord) -> dict[str, Any] | None:
    """The slide's scores, if they are of its current features; None where there are none or they are out of date.

    They may be of other words than those in force: to show them, go through `pipeline.inforce`.
    """
    try:
        found = folder.zeroshot()
    except GridDamaged:
        return None
    if found is None or (found.get("grid"), found.get("fingerprint")) != (record.current, record.facts.fingerprint):
        return None
    return found


def draw_maps(
    folder: SlideFolder, record: SlideRecord, tiles: TileMap, scorer: Scorer, pictures: PictureConfig
) -> list[dict[str, str]]:
    """A heatmap of tumour where the prompts know tumour, else one a competing class; and a layer for QuPath."""
    if scorer.untrained:
        return []
    drawn = []
    for name, title, values in map_values(tiles, scorer.prompts):
        path = write_heatmap(folder, record, tiles.grid.grid, scorer.tile_scores(tiles, name, title, values))
        drawn.append({"name": title, "file": path.relative_to(folder.path).as_posix()})
    names = scorer.prompts.names
    classes = np.full(len(tiles.grid), -1)
    classes[tiles.rows] = tiles.p.argmax(axis=1)
    measurements = {f"p({name})": tiles.full(tiles.p[:, c]) for c, name in enumerate(names)}
    layer = TileLayer(folder.id, "zeroshot", tiles.grid.grid, measurements, names, classes)
    by = f"p({names[(scorer.prompts.tumour or scorer.prompts.competing)[0]]})"
    write_tile_geojson(folder, record, layer, top=pictures.geojson_top, by=by)
    return drawn


def map_values(tiles: TileMap, prompts: PromptSet) -> list[tuple[str, str, NDArray[np.float32]]]:
    """(file name, title, (M,) probabilities) of the maps that go with a prompt set; the first is the main one."""
    if prompts.tumour:
        return [("tumour", "p(tumour)", tiles.p[:, list(prompts.tumour)].sum(axis=1))]
    return [class_map(tiles, prompts, c) for c in prompts.competing]


def class_map(tiles: TileMap, prompts: PromptSet, c: int) -> tuple[str, str, NDArray[np.float32]]:
    """(file name, title, (M,) probabilities) of one class."""
    return class_file(prompts, c), f"p({prompts.names[c]})", tiles.p[:, c]


def class_file(prompts: PromptSet, c: int) -> str:
    """The file name of a class's map; a digest is added where another map of the set would have the same."""
    names = [file_name(name) for name in prompts.names] + ["tumour"] * bool(prompts.tumour)
    return names[c] if names.count(names[c]) == 1 else f"{names[c]}-{digest(prompts.names[c])[:8]}"


def file_name(name: str) -> str:
    """A class's or head's name in lower case with dashes for spaces: letters, digits, `-` and `_`, at most 100.

    Where more than that had to change, a digest is added: HER2+ and HER2- have files of their own.
    """
    plain = "-".join(name.lower().split())
    safe = "-".join(re.findall("[a-z0-9_]+", plain))[:_MAX_NAME] or "class"
    return safe if safe == plain else f"{safe}-{digest(name)[:8]}"


def _asked(scorer: Scorer, tiles: int) -> dict[str, Any]:
    prompts = scorer.prompts
    return {
        "prompts": prompts.name,
        "classes": list(prompts.names),
        "context": [c.context for c in prompts.classes],
        "tiles": tiles,
        "label_pooling": f"top{scorer.config.label_k}",
    }


def _emptied(scorer: Scorer, tiles: int) -> dict[str, Any]:
    """The result of a slide of which every tile was dropped."""
    return _asked(scorer, 0) | {
        "label": None,
        "label_reason": nothing_left(tiles, scorer.config.drop),
        "pooled": {f"top{scorer.config.label_k}": {"p": [], "similarity": [], "k": 0}},
        "spread": None,
        "tiles_shown": {"score": "", "top": [], "bottom": []},
        "heatmaps": [],
        "layer_sha256": "",
    }


def _scored(bag: Bag, tiles: TileMap, scorer: Scorer) -> dict[str, Any]:
    prompts, embeddings, how = scorer.prompts, ensemble(scorer.bank), scorer.how(tiles.grid)
    top = zero_shot(bag, embeddings, top_k=scorer.config.top_k, **how)
    pooled = {f"top{k}": score for k, score in top.items()} | zero_shot_pooled(bag, embeddings, **how)
    chosen = pooled[f"top{scorer.config.label_k}"]
    without = f", without those flagged {' or '.join(scorer.config.drop)}" if scorer.config.drop else ""
    reason = f"highest mean of its {chosen.detail['k']} most similar tiles{without}"
    return _asked(scorer, len(bag)) | {
        "label": None if scorer.untrained else prompts.label(chosen.values),
        "label_reason": UNTRAINED if scorer.untrained else reason,
        "spread": _spread(scorer, bag, how),
        "pooled": {
            name: {
                "p": [] if scorer.untrained else [round(float(v), 6) for v in prompts.compete(score.values)],
                "similarity": [round(float(v), 6) for v in score.detail.get("similarity", [])],
                "k": int(score.detail["k"]),
            }
            for name, score in pooled.items()
        },
    }


def _spread(scorer: Scorer, bag: Bag, how: dict[str, Any]) -> dict[str, list[float]] | None:
    """Quartiles of the competing classes' p over draws of names and templates; None where nothing can be drawn."""
    rows = scorer.prompts.competing
    if scorer.untrained or not scorer.config.draws or len(rows) < 2:
        return None
    spread = prompt_spread(
        bag, [scorer.bank[c] for c in rows],
        draws=scorer.config.draws, top_k=scorer.config.label_k, seed=scorer.config.seed, **how,
    )  # fmt: skip
    columns = {"lower": spread.lower, "median": spread.median, "upper": spread.upper, "wins": spread.wins}
    return {name: [round(float(v), 6) for v in values] for name, values in columns.items()}


def _extremes(tiles: TileMap, scorer: Scorer, pictures: PictureConfig) -> dict[str, Any]:
    """The tiles at both ends of the main map, by cell, for the report to show."""
    if scorer.untrained:
        return {"score": "", "top": [], "bottom": []}
    _, title, values = map_values(tiles, scorer.prompts)[0]
    order = np.argsort(-values, kind="stable")
    cells = tiles.grid.grid.cells[tiles.rows]
    n = min(pictures.top_tiles, len(order) // 2)

    def listed(rows: NDArray[np.int64]) -> list[dict[str, float]]:
        return [{"cell": int(cells[i]), "score": round(float(values[i]), 6)} for i in rows]

    return {"score": title, "top": listed(order[:n]), "bottom": listed(order[::-1][:n])}
