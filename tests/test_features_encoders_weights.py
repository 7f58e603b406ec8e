"""Weight files that are damaged, foreign, absent or somewhere else, and the hub as a plain folder of files."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from features.encoders import hub, pull
from features.encoders.weights import check_finite, load_strictly, read_tensors, tensors_sha256
from wsi.errors import StorageError, UsageError, WeightsError
from wsi.identity import file_sha256

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, -1.0])}


class Payload:
    """A pickle that writes a file when it is loaded by a reader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_both_kinds_of_file_give_the_same_tensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    torch.save(TENSORS, tmp_path / "a.bin")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in TENSORS.items()}}, tmp_path / "a.pt")
    for name in ("a.safetensors", "a.bin", "a.pt"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == TENSORS.keys() and all(torch.equal(read[k], TENSORS[k]) for k in TENSORS), name


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    (tmp_path / "zip.bin").write_bytes(b"")
    torch.save({"weight": Payload(harm)}, tmp_path / "zip.bin")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Payload(harm)))
    for name in ("zip.bin", "bare.bin"):
        with pytest.raises(WeightsError, match="more than tensors"):
            read_tensors(tmp_path / name)
    assert not harm.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path: Path, suffix: str) -> None:
    """Cut anywhere or emptied: refused. With a byte changed: no error but ours; what still loads, digests tell."""
    whole = tmp_path / f"whole{suffix}"
    save_file(TENSORS, whole) if suffix == ".safetensors" else torch.save(TENSORS, whole)
    content, damaged = whole.read_bytes(), tmp_path / f"damaged{suffix}"
    for length in np.linspace(0, len(content) - 1, 25, dtype=int):
        damaged.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="damaged|cannot be read|no set of"):
            read_tensors(damaged)
    for place in np.random.default_rng(0).integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 0x55
        damaged.write_bytes(changed)
        with contextlib.suppress(WeightsError):
            assert all(isinstance(t, torch.Tensor) for t in read_tensors(damaged).values())


@pytest.mark.parametrize("content", [[TENSORS["bias"]], {"weight": "text"}, {}, TENSORS["bias"]])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(WeightsError, match="no set of named tensors"):
        read_tensors(tmp_path / "x.bin")


def test_differences_are_told_in_a_sentence() -> None:
    model = torch.nn.Linear(3, 2)
    given = {"weight": torch.zeros(3, 2), "extra.a": torch.zeros(1), "extra.b": torch.zeros(1)}
    with pytest.raises(WeightsError) as caught:
        load_strictly(model, given, Path("w.bin"))
    assert caught.value.message == (
        "w.bin does not fit the network: 1 missing (bias); 2 unexpected (extra.a, extra.b); "
        "1 of another shape (weight (3, 2) instead of (2, 3))."
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_numbers_are_refused(value: float, dtype: torch.dtype) -> None:
    large = torch.full((1000,), 60_000.0).to(dtype)  # their sum is beyond float16
    check_finite({"a": large, "count": torch.tensor(3)}, Path("w.bin"))
    large[7] = value
    with pytest.raises(WeightsError, match="NaN or infinite values in a"):
        check_finite({"a": large}, Path("w.bin"))


def test_drawn_weights_have_an_identity() -> None:
    base = tensors_sha256(TENSORS)
    assert base == tensors_sha256(dict(reversed(TENSORS.items())))
    changed = [
        {**TENSORS, "bias": TENSORS["bias"] + 1},
        {**TENSORS, "bias": TENSORS["bias"].half()},
        {**TENSORS, "weight": TENSORS["weight"].reshape(3, 2)},
        {"weight": TENSORS["weight"], "offset": TENSORS["bias"]},
    ]
    assert len({base, *map(tensors_sha256, changed)}) == 5


# Where weights are


def run_find(env: dict[str, str], weights: str | None = None) -> str:
    code = (
        "from features.encoders import hub\nfrom wsi.errors import WeightsError\n"
        f"try: print(hub.find({weights!r}, 'vinid/plip'))\n"
        "except WeightsError as error: print(error)"
    )
    env = {**os.environ, **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout


def test_hf_home_is_honoured_and_without_weights_the_ways_are_told(tmp_path: Path) -> None:
    repo = tmp_path / "full" / "hub" / "models--vinid--plip"
    snapshot = repo / "snapshots" / "67ade53d"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("67ade53d")
    (snapshot / "pytorch_model.bin").write_bytes(b"weights")
    assert run_find({"HF_HOME": str(tmp_path / "full")}).strip() == str(snapshot / "pytorch_model.bin")
    told = run_find({"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"})
    for way in ("vinid/plip", "--weights DIR", "`wsi models pull plip --to DIR`", "HF_HOME", "offline mode"):
        assert way in told


def test_a_file_a_folder_and_a_wrong_path(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    assert hub.find(tmp_path, "a/b") == tmp_path / "pytorch_model.bin"
    (tmp_path / "model.safetensors").write_bytes(b"new")
    assert hub.find(str(tmp_path), "a/b") == tmp_path / "model.safetensors"
    assert hub.find(tmp_path / "pytorch_model.bin", "a/b") == tmp_path / "pytorch_model.bin"
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no weights"):
        hub.find(tmp_path / "empty", "a/b")
    for wrong in ("/no/such/folder", "no/such/file", "weights/plip.bin", "weights.safetensors"):
        with pytest.raises(WeightsError, match="no weight file or folder"):
            hub.find(wrong, "a/b")


@pytest.mark.parametrize(
    ("text", "is_id"),
    [("vinid/plip", True), ("a-b/c.d_e-1", True), ("plip", False), ("../plip", False), ("a/b/c", False)],
)
def test_what_a_hub_id_looks_like(text: str, is_id: bool) -> None:
    assert hub.is_hub_id(text) == is_id


class FakeHub:
    """A repository as a dictionary, behind the two calls that are used; counts downloads."""

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self.folder, self.files, self.asked = folder, files, []  # type: ignore[var-annotated]

    def model_info(self, repo: str, revision: str | None = None) -> Any:
        if repo != "vinid/plip":
            raise EntryNotFoundError(f"no {repo} here")
        return SimpleNamespace(sha="abc123", siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def hf_hub_download(self, repo: str, name: str, revision: str) -> str:
        self.asked.append((name, revision))
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(self.files[name])
        return str(self.folder / name)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    files = {"README.md": b"", "config.json": b"{}", "pytorch_model.bin": b"old", "model.safetensors": b"new"}
    fake = FakeHub(tmp_path / "cache", files)
    monkeypatch.setattr(huggingface_hub, "model_info", fake.model_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    return fake


def test_pull_writes_a_folder_that_loading_checks(fake_hub: FakeHub, tmp_path: Path) -> None:
    dest = pull("plip", tmp_path / "new" / "plip")
    assert sorted(p.name for p in dest.iterdir()) == ["config.json", "model.safetensors", "source.json"]
    assert [p.name for p in dest.parent.iterdir()] == ["plip"]
    assert fake_hub.asked == [("config.json", "abc123"), ("model.safetensors", "abc123")]
    weights = dest / "model.safetensors"
    assert json.loads((dest / "source.json").read_text()) == {
        "repo": "vinid/plip",
        "revision": "abc123",
        "file": "model.safetensors",
        "sha256": file_sha256(weights),
    }
    assert hub.checked_sha256(weights) == file_sha256(weights)
    weights.write_bytes(b"nEw")
    with pytest.raises(WeightsError, match="was downloaded"):
        hub.checked_sha256(weights)


def test_pull_refuses_what_it_cannot_do(fake_hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be pulled"):
        pull("colour", tmp_path / "a")
    with pytest.raises(UsageError, match="exists already"):
        pull("plip", tmp_path)
    with pytest.raises(WeightsError, match="no lab/other here"):
        pull("lab/other", tmp_path / "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        pull("plip", tmp_path / "file" / "a")
    fake_hub.files = {"README.md": b""}
    with pytest.raises(WeightsError, match="has none of"):
        pull("plip", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_blob_of_the_cache_is_checked_against_its_name(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"weights")
    blob = content.rename(tmp_path / file_sha256(content))
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert hub.checked_sha256(link) == blob.name
    blob.write_bytes(b"wEights")
    with pytest.raises(WeightsError, match="damaged"):
        hub.checked_sha256(link)
