"""`wsi tiles`."""

from __future__ import annotations

import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import ledger
from pipeline.config import RunConfig, dump_toml
from pipeline.console import RunConsole, open_console, summary
from pipeline.executor import Executor
from pipeline.interrupts import EXIT_CODE, SAID, Interrupts
from pipeline.ledger import Outcome
from pipeline.manifest import SlideEntry
from pipeline.output import OutputFolder, write_csv, write_text
from pipeline.tileimages import ImageConfig
from pipeline.tissuefiles import source_summary
from tiling.grid import TileSpec
from tiling.supervised import ReaderConfig
from tiling.tissue import TissueConfig
from wsi.errors import UsageError
from wsi.wording import number_of

_TABLE = ("id", "slide", "status", "code", "detail", "hint", "tiles", "unreadable", "seconds", "warnings")


@dataclass(frozen=True, slots=True)
class TilesConfig:
    """What tiles.toml keeps: the settings that all tiles of a folder share."""

    tile: TileSpec = field(default_factory=TileSpec)
    tissue: TissueConfig = field(default_factory=TissueConfig)
    images: ImageConfig = field(default_factory=ImageConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)


def image_config(save: str | None, place: str | None, quality: int | None, drop: tuple[str, ...]) -> ImageConfig:
    """The options as a config. Raises UsageError for those that do not go together."""
    if save is None and (place or quality or drop):
        raise UsageError(
            "--as, --image-quality and --drop are about images.", hint="Say which: --save jpg, png or webp."
        )
    if save == "png" and quality:
        raise UsageError("PNG keeps every pixel: it has no quality.", hint="Leave --image-quality out, or --save jpg.")
    try:
        return ImageConfig(save or "", place or "zip", quality or ImageConfig().quality, drop)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def apart(slides: list[str] | None, out: Path | None, manifest: Path | None) -> tuple[list[str], Path]:
    """The slides, and where tiles go: -o, or the last of what was given. Raises UsageError where there is none."""
    given = list(slides or ())
    if out is None:
        if len(given) + (manifest is not None) < 2:
            raise UsageError("Where do the tiles go?", hint="Name a folder last, wsi tiles SLIDES OUT, or with -o.")
        out = Path(given.pop())
    if out.is_file():
        raise UsageError(f"{out}: is a file.", hint="Name a folder for the tiles last, or with -o.")
    strangers = [p for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
    if strangers and not (out / "tiles.toml").exists():
        raise UsageError(
            f"{out}: holds other things, {strangers[0].name} among them.",
            hint="Choose a new folder for the tiles, or one of an earlier `wsi tiles`.",
        )
    return given, out


def tiles(entries: list[SlideEntry], out: Path, config: RunConfig, images: ImageConfig, where: Executor) -> int:
    """`wsi tiles`. Returns the exit code."""
    from pipeline.batch import Batch
    from pipeline.tilejob import TileTask, save_tiles

    console, folder = open_console(), OutputFolder(out)
    folder.prepare()
    started = time.monotonic()
    try:
        with folder.alone(), Interrupts() as stop, RunConsole(console, len(entries), stop.check) as watcher:
            _keep_settings(out / "tiles.toml", TilesConfig(config.tile, config.tissue, images, config.reader))
            tasks = [TileTask(entry, out.absolute(), config, images) for entry in entries]
            outcomes = Batch(folder, tasks, save_tiles, _write_table).outcomes(where, watcher)
    except KeyboardInterrupt:
        console.print(SAID)
        return EXIT_CODE
    console.print(summary(outcomes, time.monotonic() - started))
    if lost := sum(o.unreadable for o in outcomes if o.good):
        console.print(
            f"{number_of(lost, 'tile')} could not be decoded, hence not written: the CSV calls them unreadable"
        )
    if told := source_summary(entries):
        console.print(told)
    what = {"": "csv", "zip": "zip", "folder": "csv, and images in slides/<id>/<id>"}[images.save and images.place]
    console.print(f"tiles: {out}/slides/<id>/<id>.{what}")
    return ledger.exit_code(outcomes)


def _keep_settings(path: Path, config: TilesConfig) -> None:
    """Writes tiles.toml. Raises UsageError where the folder holds tiles of other settings: they would mix."""
    text = dump_toml(config)
    if path.exists():
        now = tomllib.loads(text)
        try:
            before = tomllib.loads(path.read_text(encoding="utf-8"))
            coordinates_only = not before["images"]["save"]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: tells no more which tiles are here ({error}).", hint="Choose another folder."
            ) from error
        if coordinates_only:
            before["images"] = now["images"]  # coordinates gain images, and nothing is lost
        other = [k for section in ("tile", "tissue", "images") for k in _differing(section, before, now)]
        if other:
            raise UsageError(
                f"{path.parent}: holds tiles of other settings ({', '.join(other)}).",
                hint="Give the same options, or choose another folder.",
            )
    write_text(path, text)


def _differing(section: str, before: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> list[str]:
    was, wanted = before.get(section, {}), now[section]
    return [
        f"{section}.{k}: {was.get(k)} -> {wanted.get(k)}"
        for k in dict.fromkeys([*was, *wanted])
        if was.get(k) != wanted.get(k)
    ]


def _write_table(out: OutputFolder) -> None:
    """slides.csv: every slide as it last ended."""
    write_csv(out.path / "slides.csv", _TABLE, map(_row, ledger.last_outcomes(out.ledger).values()))


def _row(outcome: Outcome) -> dict[str, object]:
    last = outcome.detail.strip().splitlines()[-1:]
    told = {k: getattr(outcome, k) for k in ("status", "code", "hint", "tiles", "unreadable", "seconds")}
    return {
        "id": outcome.slide_id,
        "slide": outcome.name,
        **told,
        "detail": "".join(last),
        "warnings": " ".join(outcome.notes),
    }
