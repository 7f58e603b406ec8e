"""The reader process: opens slides, finds tissue and decodes tiles, and may die of a damaged file without harm.

Started by `tiling.supervised` as `python -m tiling.child IN OUT RING`: three inherited file descriptors, two pipes
of frames and the memory that tiles are laid in. It ends when its supervisor does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tiling.annotations import Annotations, read_annotations
from tiling.drawn import drawn_mask
from tiling.frames import receive, send
from tiling.grid import TileGrid, TileSpec, TissueMask, check_detail
from tiling.normalisation import StainNormaliser
from tiling.stainfit import fitted_normaliser
from tiling.tiles import read_tiles
from tiling.tissue import TissueConfig, brightfield, detect_tissue
from wsi.errors import ReaderMemory, StainsUnfit, TissueInvalid, ToolkitError
from wsi.facts import SlideFacts
from wsi.geometry import Region, Size
from wsi.location import Location, located, without_secrets

NOT_BRIGHTFIELD = (
    "Dark background: this looks like fluorescence, not brightfield; encoders trained on H&E do not know it."
)

_PR_SET_PDEATHSIG = 1


class Child:
    """Answers one request at a time; holds at most one open slide."""

    def __init__(self, inbox: int, outbox: int, ring: int) -> None:
        self.inbox, self.outbox, self.ring = inbox, outbox, ring
        self.path: Location = Path()
        self.slide: Any = None
        self.grid: TileGrid | None = None
        self.normaliser: StainNormaliser | None = None
        self.drawn: Annotations | None = None

    def serve(self) -> None:
        while True:
            try:
                request, _ = receive(self.inbox)
            except EOFError:
                return
            try:
                getattr(self, f"do_{request['do']}")(request)
            except ToolkitError as error:
                send(self.outbox, {"error": error.as_record()})
            except BrokenPipeError:
                return
            except Exception as error:
                if _is_out_of_memory(error):
                    send(self.outbox, {"error": self._out_of_memory().as_record()})
                else:  # the supervisor raises it again, with this traceback
                    send(self.outbox, {"bug": without_secrets(traceback.format_exc(), self.path)})

    def do_open(self, request: dict[str, Any]) -> None:
        """path, reader, mpp, mpp_if_missing -> facts of the slide, which stays open."""
        self.path = located(request["path"])
        facts = self._opened(request, request["mpp"])
        claims_to_be_coarse = (facts.mpp_problem or {}).get("facts", {}).get("coarse", False)
        if facts.known_mpp is None and request["mpp_if_missing"] and not claims_to_be_coarse:
            facts = self._opened(request, request["mpp_if_missing"])
        send(self.outbox, {"facts": facts.as_json()})

    def _opened(self, request: dict[str, Any], mpp: float | None) -> SlideFacts:
        from wsi import open_slide

        self.close_slide()
        self.slide = open_slide(self.path, reader=request["reader"], mpp=mpp)
        return SlideFacts.of(self.slide)

    def do_annotations(self, request: dict[str, Any]) -> None:
        """path -> digests of the areas drawn in it, which are kept for `do_prepare`, and of its bytes."""
        self.path = path = Path(request["path"])
        self.drawn = read_annotations(path)
        send(self.outbox, {"digest": self.drawn.digest, "sha256": self.drawn.sha256})

    def _tissue(self, request: dict[str, Any]) -> tuple[TissueMask, tuple[str, ...]]:
        config = TissueConfig(**request["tissue"])
        if request["drawn"] is None:
            return detect_tissue(self.slide, config), ()
        path, digest = request["drawn"]
        if self.drawn is None or (str(self.drawn.path), self.drawn.digest) != (path, digest):
            self.drawn = read_annotations(path)
        if self.drawn.digest != digest:
            raise TissueInvalid(f"{path}: it was changed during the run.", hint="Run again.", path=path)
        mask, notes = drawn_mask(self.slide, self.drawn, config)
        return mask, (f"Tissue as drawn in {self.drawn.path.name}, not detected.", *notes)

    def do_prepare(self, request: dict[str, Any]) -> None:
        """tissue, drawn, tile, thumbnail_px -> thumbnail, tissue mask and grid of the open slide."""
        slide, spec = self.slide, TileSpec(**request["tile"])
        check_detail(slide, spec)  # before pixels: the overview of a slide with a wrong mpp may be endless
        known = slide.warnings
        thumbnail = slide.thumbnail(request["thumbnail_px"])
        mask, notes = self._tissue(request)
        damage = [warning for warning in slide.warnings if warning not in known]
        drawn = self.drawn if request["drawn"] is not None else None
        self.grid = grid = TileGrid.over(slide, mask, spec)
        self.normaliser = self._fitted(grid, drawn)  # before any tile is asked for: a slide may be refused for it
        fit = no_tile_fits(slide, mask, grid, drawn=drawn is not None and len(drawn.tissue) > 0)
        header = {
            "mask": {"px": mask.px, "origin": mask.origin},
            "grid": {"origin": grid.origin, "span_px": grid.span_px, "stride_px": grid.stride_px},
            "notes": [*damage, *notes, *fit, *([] if brightfield(thumbnail) else [NOT_BRIGHTFIELD])],
        }
        arrays = {"thumbnail": thumbnail, "inside": mask.inside, "keep": grid.keep, "fraction": grid.tissue_fraction}
        send(self.outbox, header, arrays)

    def _fitted(self, grid: TileGrid, drawn: Annotations | None) -> StainNormaliser | None:
        try:
            return fitted_normaliser(self.slide, grid)
        except StainsUnfit as error:
            if drawn is None:
                raise
            hint = f"Its tiles are where {drawn.path.name} has tissue: is it drawn around glass? {error.hint}"
            raise StainsUnfit(error.message, hint=hint, **error.facts) from error

    def do_tiles(self, request: dict[str, Any]) -> None:
        """batch_size, threads, start, slots -> batches through the ring; a slot given back is written again."""
        assert self.grid is not None, "tiles are asked for after prepare"
        size = self.grid.spec.size_px
        shape = (request["slots"], request["batch_size"], size, size, 3)
        with _mapped(self.ring, shape) as slots:
            free = list(range(len(slots)))
            how = {key: request[key] for key in ("batch_size", "threads", "start")}
            for batch in read_tiles(self.slide, self.grid, **how, normaliser=self.normaliser):
                while not free:
                    free.append(receive(self.inbox)[0]["free"])
                slot = free.pop()
                slots[slot, : len(batch)] = batch.pixels
                send(self.outbox, {"slot": slot}, {"cells": batch.cells, "status": batch.status, "flags": batch.flags})
        send(self.outbox, {"end": True})
        while len(free) < request["slots"]:
            free.append(receive(self.inbox)[0]["free"])

    def do_crops(self, request: dict[str, Any]) -> None:
        """regions (x, y, width, height) and size_px -> their pixels."""
        size = Size(request["size_px"], request["size_px"])
        pixels = [self.slide.read(Region(*region), size) for region in request["regions"]]
        send(self.outbox, {}, {"pixels": np.stack(pixels) if pixels else np.zeros((0, *size, 3), np.uint8)})

    def _out_of_memory(self) -> ReaderMemory:
        return ReaderMemory(
            f"{self.path}: reading it took more memory than the reader may have.",
            hint="Raise reader.memory_gb if this slide is worth it.",
            path=str(self.path),
        )

    def close_slide(self) -> None:
        if self.slide is not None:
            self.slide.close()
        self.slide = self.grid = self.normaliser = None


def no_tile_fits(slide: Any, mask: TissueMask, grid: TileGrid, *, drawn: bool) -> tuple[str, ...]:
    """A note where there is tissue and no tile of it, and what the two sizes are."""
    if len(grid) or not (drawn or mask.inside.any()):
        return ()
    spec, um2 = grid.spec, float(mask.inside.sum()) * (mask.px * slide.mpp) ** 2
    width, height = (f"{side * slide.mpp:,.0f}" for side in (slide.bounds.width, slide.bounds.height))
    side = f"{spec.size_px * spec.mpp:,.0f}"
    told = (
        f"Tissue was {'drawn' if drawn else 'found'}, {um2:,.0f} um2, but no tile of {side} x {side} um is at least "
        f"{spec.min_tissue:.0%} tissue (tile.min_tissue); the slide is {width} x {height} um."
    )
    units = f" Drawings are in pixels of the finest level, {slide.mpp:.4g} um each, not in um or mm." if drawn else ""
    return (f"{told} Take smaller tiles or a lower share.{units}",)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the cap was met, in the words of Python, of the kernel, of OpenCV or of a thread without a stack."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    return isinstance(error, MemoryError) or str(error) == "can't start new thread"


@contextlib.contextmanager
def _mapped(fd: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    ring = mmap.mmap(fd, int(np.prod(shape)))
    slots = np.frombuffer(ring, np.uint8).reshape(shape)
    yield slots  # unmapped once the last array that looks at it is gone


def _die_with_parent() -> None:
    """Linux ends this process when the supervisor is killed, even while a C library hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: list[str]) -> None:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    inbox, outbox, ring, memory = (int(a) for a in argv)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # or each damaged slide may leave gigabytes in the working folder
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    cv2.setNumThreads(1)  # tiles are small, and read in threads of their own: OpenCV's would mostly wait for each other
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what C libraries print belongs to the log, not to the frames
    Child(inbox, outbox, ring).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
