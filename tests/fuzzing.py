"""Trials with damaged slides: small sound ones of every kind, and what became of a mutant in the reader process."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mutants import Anatomy
from numpy.typing import NDArray
from PIL import Image
from slides import aperio_svs, hamamatsu_vms, ome_tiff, tiled_tiff

from pipeline.synthetic import draw, recipe
from tiling import TileSpec, TissueConfig
from tiling.grid import READ_FAILED, READ_OK
from tiling.supervised import Preparation, PreparedSlide, ReaderConfig, ReaderProcess
from wsi.errors import SlideError, SlideUnreadable, ToolkitError
from wsi.svs import SvsSpec, write_svs

WANTED = Preparation(TissueConfig(), TileSpec(), thumbnail_px=256)
DEADLINE_S = 120.0  # by the clock: on a busy machine that is little
MOST_TILES = 256  # of a slide that are all read; of others the first, the middle and the last
_REAL = {
    "svs-rgb": "slides/CMU-1-Small-Region.svs",
    "tiff-pyramid": "slides/wsipacker_example.tif",
    "ome-real": "slides/OS-1-detail.ome.tif",
    "dicom": "slides/dicom_CMU-1-Small-Region",
    "dicom-file": "slides/camelyon_overview.dcm",
    "ndpi": "slides/fluorescence_DAPI.ndpi",
    "tiny": "odd/openslidepy_small.svs",
    "boxes": "odd/openslidepy_boxes.tiff",
    "orientation": "odd/large_image_test_orient6.tif",
}
_TOTAL_ROWS = b"\x48\x00\x07\x00UL"  # DICOM's TotalPixelMatrixRows, (0048,0007)
_LARGE_BYTES = 1_000_000
_COARSE = ("tiff-pyramid", "dicom-file")  # read as if their pixels were finer


@dataclass(frozen=True)
class Seed:
    """A sound slide, whose files mutants are made of."""

    name: str
    main: str  # what is opened: the name of a file, or "" for the folder
    files: Mapping[str, bytes]
    mpp: float | None = None  # in place of its own

    @functools.cached_property
    def anatomies(self) -> dict[str, Anatomy]:
        return {name: Anatomy.of(data) for name, data in sorted(self.files.items())}

    def mutant(self, number: int) -> tuple[str, bytes, str, np.random.Generator]:
        """The file that is damaged, what it holds then, and in what way; and the dice, which go on from there."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), number])
        name = list(self.anatomies)[int(rng.integers(len(self.anatomies)))]
        return name, *self.anatomies[name].mutant(rng), rng


@functools.cache
def tissue() -> NDArray[np.uint8]:
    """(640, 800, 3): a drawn section at 0.5 um/px, of eight tiles."""
    return draw(recipe(3, "benign", width_um=400.0, height_um=320.0, mpp=0.5, pieces=1)).pixels


def drawn_seeds(folder: Path) -> list[Seed]:
    """Sound slides of `tissue`, written into this empty folder: the kinds that differ in what reads them."""
    pixels, dots = tissue(), {"resolution": (20_000, 20_000)}
    half, small = np.ascontiguousarray(pixels[::2, ::2]), np.ascontiguousarray(pixels[64:576, 128:640])
    write_svs(folder / "svs.svs", pixels, SvsSpec(mpp=0.5, downsamples=(1, 4)))
    aperio_svs(folder / "svs-whole.svs", pixels, [half], compression="jpeg")
    aperio_svs(folder / "svs-j2k-rgb.svs", small, compression="aperio_jp2000_rgb")
    aperio_svs(folder / "svs-j2k-ycc.svs", small, compression="aperio_jp2000_ycbc")
    tiled_tiff(folder / "big.tif", pixels, [half], compression="jpeg", bigtiff=True, **dots)
    tiled_tiff(folder / "deflate.tif", pixels, [half], compression="deflate", predictor=True, **dots)
    tiled_tiff(folder / "lzw-strips.tif", pixels, tile=None, rowsperstrip=64, compression="lzw", **dots)
    tiled_tiff(folder / "webp.tif", pixels, [half], compression="webp", **dots)
    tiled_tiff(folder / "alpha.tif", np.dstack([small, small[..., :1]]), extrasamples=["unassalpha"], **dots)
    ome_tiff(folder / "pyramid.ome.tif", pixels, half)
    for suffix in ("png", "jpg", "bmp"):
        Image.fromarray(pixels).save(folder / f"picture.{suffix}")
    seeds = [Seed(path.name, path.name, _contents(path)) for path in sorted(folder.iterdir())]
    hamamatsu_vms(folder / "vms", pixels)
    return [*seeds, Seed("vms", "a.vms", _contents(folder / "vms"))]


def real_seeds(data: Path) -> list[Seed]:
    """Those of the real slides that are there."""
    found = ((name, data / relative) for name, relative in _REAL.items() if (data / relative).exists())
    return [
        Seed(name, "" if path.is_dir() else path.name, _contents(path), 0.5 if name in _COARSE else None)
        for name, path in found
    ]


def _contents(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: _shortened(file.read_bytes()) for file in files}


def _shortened(data: bytes) -> bytes:
    """A large DICOM level as if it ended after three rows of its tiles, which is quicker to read."""
    at = data.find(_TOTAL_ROWS)
    if at < 0 or len(data) < _LARGE_BYTES:
        return data
    return data[: at + 8] + struct.pack("<I", 720) + data[at + 12 :]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """All that a run takes from a slide."""

    prepared: PreparedSlide
    tiles: NDArray[np.uint8]  # (n, 224, 224, 3)
    status: NDArray[np.uint8]  # (n,)

    def equals(self, other: Reading) -> bool:
        mine, theirs = self._arrays(), other._arrays()
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def _arrays(self) -> tuple[NDArray[np.uint8], ...]:
        return self.prepared.thumbnail, self.prepared.grid.keep, self.tiles, self.status

    def flattest(self) -> float:
        """The largest share of one colour in a tile that passes for a good one."""
        return max((_flatness(tile) for tile in self.tiles[self.status != READ_FAILED]), default=0.0)


def _flatness(tile: NDArray[np.uint8]) -> float:
    few = tile[::4, ::4].reshape(-1, 3).astype(np.int64) @ (1, 256, 65536)
    return float(np.unique(few, return_counts=True)[1].max() / len(few))


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one mutant."""

    seed: str
    number: int
    reader: str
    damage: str
    outcome: str  # "unchanged", "changed", "some tiles unreadable", "no tissue", a code, with its signal, or "bug: ..."
    told: str = ""
    seconds: float = 0.0  # by the clock
    cpu_seconds: float = 0.0  # of the reader process; by the clock where it ended
    peak_mib: int = 0  # of the reader process
    flat: float = 0.0  # by how much a tile is of one colour more than any of the sound slide
    strays: tuple[str, ...] = field(default=())  # files that were left behind


def read_all(process: ReaderProcess, path: Path, mpp: float | None = None) -> Reading:
    """Opens a slide and reads it as a run does; of very many tiles the first, the middle and the last."""
    process.open(path, mpp, mpp_if_missing=0.5)
    prepared = process.prepare(WANTED)
    grid = prepared.grid
    start = 0 if len(grid) <= MOST_TILES else len(grid) - 1
    parts = [(batch.pixels.copy(), batch.status) for batch in process.tiles(8, start=start)]
    for cell in (grid.cells[0], grid.cells[start // 2]) if start else ():
        with contextlib.suppress(SlideUnreadable):
            pixels = process.crops([grid.region(int(cell))], grid.spec.size_px)
            parts.append((pixels, np.full(1, READ_OK, np.uint8)))
    tiles = [np.zeros((0, 224, 224, 3), np.uint8), *(pixels for pixels, _ in parts)]
    return Reading(prepared, np.concatenate(tiles), np.concatenate([np.zeros(0, np.uint8), *(s for _, s in parts)]))


def forget_peak(process: ReaderProcess) -> None:
    """From now on `peak_mib` tells of what comes."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{_pid(process)}/clear_refs").write_text("5")


def peak_mib(process: ReaderProcess) -> int:
    """MiB that a reader process held at most; where it has ended, the most of all that have ended so far."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{_pid(process)}/status").read_text().splitlines()
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10


def cpu_seconds(process: ReaderProcess) -> float:
    """What a reader process has worked so far; 0 where there is none."""
    try:
        numbers = Path(f"/proc/{_pid(process)}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def _pid(process: ReaderProcess) -> int:
    return process._process.pid if process._process is not None else -1


class Laboratory:
    """Reader processes, used for one mutant after another as a run uses them for its slides."""

    def __init__(self, folder: Path, seeds: list[Seed], memory_gb: float = 4.0) -> None:
        self.folder, self.seeds = folder, {seed.name: seed for seed in seeds}
        self._memory_gb = memory_gb
        self._processes: dict[str, ReaderProcess] = {}
        self._sound: dict[tuple[str, str], Reading | None] = {}
        for seed in seeds:
            (folder / seed.name).mkdir(parents=True)
            for name, data in seed.files.items():
                (folder / seed.name / name).write_bytes(data)

    def __enter__(self) -> Laboratory:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.close()

    def trial(self, name: str, number: int) -> Trial:
        """Mutant `number` of a seed, read by "auto" in seven cases of ten."""
        seed = self.seeds[name]
        file, data, damage, rng = seed.mutant(number)
        reader = "auto" if rng.random() < 0.7 else ("fast", "openslide", "tiffslide")[int(rng.integers(3))]
        sound = self._sound_reading(name, reader)
        if sound is None:  # that one does not read it even when it is whole
            reader, sound = "auto", self._sound_reading(name, "auto")
        assert sound is not None, f"{name} can be read"
        (self.folder / name / file).write_bytes(data)
        process, before = self._process(reader), self._files()
        started, worked = time.monotonic(), cpu_seconds(process)
        try:
            ended, told, flat = self._ended(seed, reader, sound)
        finally:
            (self.folder / name / file).write_bytes(seed.files[file])
        seconds = time.monotonic() - started
        return Trial(
            seed=name,
            number=number,
            reader=reader,
            damage=f"{file}: {damage}",
            outcome=ended,
            told=told,
            seconds=seconds,
            cpu_seconds=cpu_seconds(process) - worked if _pid(process) > 0 else seconds,
            peak_mib=peak_mib(process),
            flat=flat,
            strays=tuple(sorted(self._files() - before)),
        )

    def _ended(self, seed: Seed, reader: str, sound: Reading) -> tuple[str, str, float]:
        try:
            found = self._read(seed, reader)
        except SlideError as error:
            fault = _no_sentence(error, self.folder / seed.name)
            code = f"{error.code} ({error.facts['cause']})" if "cause" in error.facts else error.code
            return f"bug: {fault}" if fault else code, str(error), 0.0
        except ToolkitError as error:
            return f"bug: {error.code} is no fault of a slide", str(error), 0.0
        except Exception as error:  # what is sought
            return f"bug: {type(error).__name__}", str(error), 0.0
        return *_judged(found, sound), found.flattest() - sound.flattest()

    def _process(self, reader: str) -> ReaderProcess:
        if reader not in self._processes:
            config = ReaderConfig(name=reader, timeout_s=DEADLINE_S, memory_gb=self._memory_gb)
            self._processes[reader] = ReaderProcess(config)
        return self._processes[reader]

    def _read(self, seed: Seed, reader: str) -> Reading:
        process = self._process(reader)
        forget_peak(process)
        return read_all(process, self.folder / seed.name / seed.main, seed.mpp)

    def _sound_reading(self, seed: str, reader: str) -> Reading | None:
        key = seed, reader
        if key not in self._sound:
            try:
                self._sound[key] = self._read(self.seeds[seed], reader)
            except SlideError:
                self._sound[key] = None
        return self._sound[key]

    def _files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


def _judged(found: Reading, sound: Reading) -> tuple[str, str]:
    failed = int((found.status == READ_FAILED).sum())
    if failed:
        return "some tiles unreadable" if failed < len(found.status) else "all tiles unreadable", ""
    if not len(found.status):
        return "no tissue", ""
    return ("unchanged" if found.equals(sound) else "changed"), ""


def _no_sentence(error: SlideError, folder: Path) -> str:
    """What about the words of an error is not for people; "" if nothing."""
    text = str(error)
    faults = {
        "names no file": str(folder) not in text,
        "ends without a hint": not error.hint or not text.endswith("."),
        "is endless": len(text) > 1_000 + len(str(folder)),
        "holds what cannot be shown": not text.isprintable(),
        "speaks Python": any(word in text for word in ("Traceback", "<class", "object at 0x", "NoneType")),
    }
    return next((fault for fault, there in faults.items() if there), "")
