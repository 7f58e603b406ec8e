"""One contender of `benchmarks/heads.py`, in a process of its own. Not run by hand.

It sets itself up, says so, and then trains one epoch for every line on its standard input, so that the contenders take
turns epoch by epoch on a machine that others use too. Every answer is one line of JSON on standard output. The peak
memory is the process's own `ru_maxrss`.

Each function here imports what it needs: the interpreter with torchmil need not have the toolkit's libraries.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# This folder holds a heads.py of its own, which would hide the package.
sys.path[0] = str(ROOT)

DIM = 512
DATA = "features"  # in an HDF5 file, as CLAM names it


class Turns:
    """The conversation with the benchmark: `measured` waits for its turn, works, and says how long that took."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._ready = False

    def measured(self, work: Callable[[], Any]) -> Any:
        self.ready()
        if not sys.stdin.readline():
            raise SystemExit(1)
        before, cpu = time.perf_counter(), time.process_time()
        result = work()
        say(seconds=time.perf_counter() - before, cpu=time.process_time() - cpu)
        return result

    def ready(self) -> None:
        """Set up: what came before the first epoch, imports aside, is the start."""
        if not self._ready:
            self._ready = True
            say(start=time.perf_counter() - self._started)


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# --- what is compared ---------------------------------------------------------------------------------------------


def ours(options: argparse.Namespace) -> None:
    """`train_head` on bags of the feature store: read from disk once, then kept as float16."""
    from heads.training import train_head

    turns = Turns()
    _take_turns(turns)
    bags = _stored(options.work, options.bags)
    train_head(bags, labels(options.bags), epochs=options.epochs, validation=0.0)


def hdf5(options: argparse.Namespace) -> None:
    """A plain loop: a DataLoader of one bag, no workers, over one HDF5 file a bag with one-row chunks, read each epoch.

    The network is the package's own, so that only the way in differs.
    """
    import h5py
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return options.bags

        def __getitem__(self, i: int) -> tuple[Any, int]:
            with h5py.File(options.work / "h5" / f"{i}.h5") as file:
                return torch.from_numpy(file[DATA][:]), labels(options.bags)[i]

    turns = Turns()
    step = _stepper()
    loader = DataLoader(Files(), batch_size=1, shuffle=True)

    def epoch() -> None:
        for x, label in loader:
            step(x[0], label)

    for _ in range(options.epochs):
        turns.measured(epoch)


def bare(options: argparse.Namespace) -> None:
    """The arithmetic alone: as many steps, all on one standardised float32 bag in memory."""
    import numpy as np
    import torch

    turns = Turns()
    step = _stepper()
    x = torch.from_numpy(np.load(options.work / "npy" / "x" / "0.npy"))
    y = [torch.tensor([label]) for label in labels(options.bags)]
    for _ in range(options.epochs):
        turns.measured(lambda: [step(x, label) for label in y])


def torchmil(options: argparse.Namespace) -> None:
    """torchmil's ABMIL, dataset of .npy files and Trainer as they come: bags are loaded at their first use and kept.

    Its Trainer validates each epoch; it is given one bag for that, so that training is what is timed.
    """
    import torch
    from torch.utils.data import DataLoader
    from torchmil.data import collate_fn
    from torchmil.datasets import ProcessedMILDataset
    from torchmil.models import ABMIL
    from torchmil.utils import Trainer

    turns = Turns()
    torch.manual_seed(0)
    embedding = torch.nn.Sequential(torch.nn.Linear(DIM, 512), torch.nn.ReLU(), torch.nn.Dropout(0.25))
    model = ABMIL(in_shape=(DIM,), att_dim=128, gated=True, feat_ext=embedding)
    folder = options.work / "npy"
    data = ProcessedMILDataset(
        features_path=str(folder / "x"),
        labels_path=str(folder / "y"),
        bag_keys=["X", "Y"],
        bag_names=[str(i) for i in range(options.bags)],
        load_at_init=False,
    )
    loader = DataLoader(data, batch_size=1, shuffle=True, collate_fn=collate_fn)
    one = DataLoader(data.subset([0]), batch_size=1, collate_fn=collate_fn)
    adam = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-4, fused=True)
    trainer = Trainer(model, adam, device="cpu", disable_pbar=True, verbose=False)
    for _ in range(options.epochs):
        turns.measured(lambda: trainer.train(1, loader, one))


# --- one long bag -------------------------------------------------------------------------------------------------


def long_training(options: argparse.Namespace) -> None:
    """Epochs of two bags: the long one, and one of 64 tiles that makes the second class."""
    from heads.training import train_head

    _take_turns(Turns())
    train_head(_stored(options.work, "long", "short"), [0, 1], epochs=options.epochs, validation=0.0)


def long_score(options: argparse.Namespace) -> None:
    """The score of the long bag, read from the store, by a head trained on two short ones."""
    from heads.training import train_head

    turns = Turns()
    long, short, other = _stored(options.work, "long", "short", "other")
    head = train_head([short, other], [0, 1], epochs=1, validation=0.0)
    for _ in range(options.epochs):
        turns.measured(lambda: head.score(long))


def imports(options: argparse.Namespace) -> None:
    """Nothing: the memory that torch and the package take before any bag is there."""
    import heads.training  # noqa: F401

    Turns().ready()


# --- parts --------------------------------------------------------------------------------------------------------


def labels(n: int) -> list[int]:
    return [i % 2 for i in range(n)]


def _stored(work: Path, *which: Any) -> list[Any]:
    from features.grid import FeatureGrid
    from heads.bag import StoredBag

    names = range(which[0]) if isinstance(which[0], int) else which
    return [StoredBag.of(FeatureGrid.open(work / "grids" / f"{name}.zarr"), str(name)) for name in names]


def _take_turns(turns: Turns) -> None:
    """Epochs inside `train_head` wait for their turn too. No public hook is there: this wraps a private method."""
    from heads import fitting

    epoch = fitting._Course._epoch
    fitting._Course._epoch = lambda course, k: turns.measured(lambda: epoch(course, k))  # type: ignore[method-assign]


def _stepper() -> Callable[[Any, Any], None]:
    """A training step of the package's gated ABMIL by its own recipe, on a float32 bag (N, D) and a label (1,)."""
    import torch
    from torch.nn.functional import cross_entropy

    from heads.networks.abmil import GATED
    from heads.networks.registry import Architecture

    recipe = GATED.recipe
    torch.manual_seed(0)
    sizes = {"hidden": recipe.hidden, "attention": recipe.attention, "dropout": recipe.dropout}
    model = GATED.build(Architecture("abmil", DIM, 2, **sizes)).train()
    adam = torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)

    def step(x: Any, label: Any) -> None:
        adam.zero_grad()
        loss = cross_entropy(model.fit(x, [len(x)], label).outputs, label)
        loss.backward()
        adam.step()
        loss.item()

    return step


# --- the bags -----------------------------------------------------------------------------------------------------


def data(options: argparse.Namespace) -> None:
    """Writes every bag in each form that a contender reads: a feature grid, HDF5 of one-row chunks, and .npy."""
    import numpy as np

    for folder in ("grids", "h5", "npy/x", "npy/y"):
        (options.work / folder).mkdir(parents=True, exist_ok=True)
    for i, label in enumerate(labels(options.bags)):
        x = _features(options.tiles, i) + np.float16(0.1 * label)
        _grid(options.work, str(i), iter([x]), options.tiles)
        _one_row_chunks(options.work / "h5" / f"{i}.h5", x.astype(np.float32))
        np.save(options.work / "npy" / "x" / f"{i}.npy", x.astype(np.float32))
        np.save(options.work / "npy" / "y" / f"{i}.npy", np.float32(label))
    for name, tiles in (("long", options.long), ("short", 64), ("other", 64)):
        parts = (_features(min(8192, tiles - at), at) for at in range(0, tiles, 8192))
        _grid(options.work, name, parts, tiles)
    Turns().ready()


def _features(tiles: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).standard_normal((tiles, DIM), np.float32).astype(np.float16)


def _grid(work: Path, name: str, parts: Iterator[Any], tiles: int) -> None:
    """A feature grid as extraction writes it, of a slide that does not exist; every tile could be read."""
    from types import SimpleNamespace

    import numpy as np

    from features.spec import EncoderSpec
    from features.writer import FeatureRows, write_feature_grid
    from tiling.grid import READ_OK, TileGrid, TileSpec

    slide = SimpleNamespace(path=name, fingerprint=name, mpp=0.25, mpp_source="tiff", reader="openslide")
    lattice = TileGrid(TileSpec(), (0, 0), 448, 448, np.ones((1, tiles), bool), np.ones(tiles, np.float32))
    encoder = EncoderSpec(
        name="synthetic",
        dim=DIM,
        input_px=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        interpolation="bicubic",
        normalised=False,
        weights_sha256="0" * 64,
        precision="float32",
        has_text=False,
    )
    rows = (FeatureRows(x.astype(np.float32), np.full(len(x), READ_OK, np.uint8)) for x in parts)
    write_feature_grid(work / "grids" / f"{name}.zarr", slide, lattice, encoder, rows)


def _one_row_chunks(path: Path, x: Any) -> None:
    """As CLAM appends: float32, a chunk for each tile."""
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset(DATA, data=x, chunks=(1, DIM), maxshape=(None, DIM))


def main() -> None:
    parser = argparse.ArgumentParser()
    jobs = {f.__name__: f for f in (data, ours, hdf5, bare, torchmil, long_training, long_score, imports)}
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--work", type=Path, required=True)
    for count in ("bags", "tiles", "long", "epochs"):
        parser.add_argument(f"--{count}", type=int, required=True)
    options = parser.parse_args()
    jobs[options.job](options)
    say(peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, versions=_versions())


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    wanted = ("torch", "torchmil", "h5py", "zarr", "numpy")
    return {name: version(name) for name in wanted if name in sys.modules}


if __name__ == "__main__":
    main()
