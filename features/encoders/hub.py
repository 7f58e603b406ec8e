"""Weights on the Hugging Face hub, in its cache, and in folders laid out like its repositories."""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.encoders.request import first_line
from wsi.errors import NoSpace, StorageError, UsageError, WeightsError
from wsi.identity import file_sha256

WEIGHT_FILES = (  # a repository may hold the same weights in both libraries' naming: open_clip's first
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_SIDE_FILES = (
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_PULLABLE = {"plip": "vinid/plip"}
SOURCE = "source.json"
"""Written beside pulled weights: repo, revision, file, sha256."""


def is_hub_id(text: str) -> bool:
    """True for `owner/name`; a path to a weight file is none."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text)) and not text.endswith((".safetensors", ".bin", ".pt"))


def snapshot(repo: str, names: Sequence[str] = WEIGHT_FILES) -> Path:
    """Folder with a repository's settings and the first of its weight files among `names`: the cache's, or fetched.

    What the cache holds is used as it is, without a look at the network. HF_HOME and HF_HUB_OFFLINE are honoured.
    Raises WeightsError with the reason if the repository is neither cached nor reachable.
    """
    from huggingface_hub import try_to_load_from_cache

    with _reaching(repo):
        cached = [try_to_load_from_cache(repo, name) for name in names]
    for found in cached:
        if isinstance(found, str):
            return Path(found).parent
    return _download(repo, "main", names)


def _download(repo: str, revision: str, names: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download, model_info

    with _reaching(repo):
        present = {file.rfilename for file in model_info(repo, revision=revision).siblings or ()}
        weights = [name for name in names if name in present][:1]
        # Weights last: what is in the cache with them is taken for complete.
        wanted = [name for name in _SIDE_FILES if name in present] + weights
        paths = [hf_hub_download(repo, name, revision=revision) for name in wanted]
    if not weights:
        raise WeightsError(f"The hub's {repo} has none of {', '.join(names)}.", hint="Name another repository.")
    return Path(paths[-1]).parent


def _revision(repo: str) -> str:
    from huggingface_hub import model_info

    with _reaching(repo):
        return str(model_info(repo).sha)


@contextmanager
def _reaching(repo: str) -> Iterator[None]:
    """Turns what the hub's client raises into WeightsError with the ways out."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, HTTPError

    try:
        yield
    except (HfHubHTTPError, HTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        name = next((short for short, known in _PULLABLE.items() if known == repo), repo)
        raise WeightsError(
            f"The weights of {repo} are not on this machine, and the hub is not to be had: {first_line(error)}",
            hint=f"Give a folder or file that holds them (--weights DIR). To make one, run `wsi models pull {name} "
            f"--to DIR` on a machine with internet and copy DIR. Or point HF_HOME at a cache that holds {repo}.",
            repo=repo,
        ) from error


def pull(name: str, dest: Path) -> Path:
    """Copies an encoder's weights into the new folder `dest`, for a machine without internet; gives `dest`.

    `name` is plip, or the hub id of a CLIP checkpoint. The folder is what `--weights` takes: the hub's own layout and
    `source.json`, which records the exact revision and the SHA-256 that loading checks.
    Raises UsageError for an unknown name or an existing folder, WeightsError if the hub is not to be reached.
    """
    repo = _PULLABLE.get(name, name)
    if not is_hub_id(repo):
        raise UsageError(f"'{name}' cannot be pulled.", hint="Pull plip, or a hub id such as vinid/plip.")
    if dest.exists():
        raise UsageError(f"{dest} exists already.", hint="Name a folder that does not.", path=str(dest))
    revision = _revision(repo)
    folder = _download(repo, revision, WEIGHT_FILES)
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=dest.parent) as staging:
            _copy(folder, Path(staging) / "done", {"repo": repo, "revision": revision})
            (Path(staging) / "done").rename(dest)
    except OSError as error:
        kind = NoSpace if error.errno == errno.ENOSPC else StorageError
        raise kind(f"{dest} cannot be written: {error}.", hint="Choose another place.", path=str(dest)) from error
    return dest


def _copy(folder: Path, dest: Path, source: dict[str, str]) -> None:
    dest.mkdir()
    weights = weight_file(folder)
    for path in [weights, *(folder / name for name in _SIDE_FILES)]:
        if path.exists():
            shutil.copyfile(path, dest / path.name)
    source |= {"file": weights.name, "sha256": file_sha256(weights)}
    (dest / SOURCE).write_text(json.dumps(source, indent=2) + "\n")


def weight_file(folder: Path, names: Sequence[str] = WEIGHT_FILES) -> Path:
    """The first of `names` that is in the folder. Raises WeightsError if none is."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder} holds no weights.", hint=f"It should have one of: {', '.join(names)}.", path=str(folder)
    )


def find(weights: Path | str | None, repo: str) -> Path:
    """The weight file meant by a file, a folder or a hub id; None means `repo`. Raises WeightsError."""
    if weights is None:
        return weight_file(snapshot(repo))
    if not Path(weights).exists() and is_hub_id(str(weights)):
        return weight_file(snapshot(str(weights)))
    return given_file(Path(weights))


def given_file(path: Path) -> Path:
    """The file that `--weights` names: itself, or that of the folder. Raises WeightsError if there is none."""
    if not path.exists():
        raise WeightsError(
            f"There is no weight file or folder {path}.",
            hint="Give a file, a folder in the hub's layout, or a hub id such as vinid/plip.",
            path=str(path),
        )
    return weight_file(path) if path.is_dir() else path


def checked_sha256(path: Path) -> str:
    """SHA-256 of a weight file. Raises WeightsError if the file is not the one its source recorded."""
    actual, recorded = file_sha256(path), _recorded_sha256(path)
    if recorded and recorded != actual:
        raise WeightsError(
            f"{path} is damaged: its SHA-256 is {actual}, but {recorded} was downloaded.",
            hint="Delete it and fetch it again.",
            path=str(path),
        )
    return actual


def _recorded_sha256(path: Path) -> str:
    """What `pull` wrote down, or the name the hub's cache gives a large file: its SHA-256."""
    if (path.parent / SOURCE).is_file():
        source = read_json(path.parent / SOURCE)
        return str(source.get("sha256", "")) if source.get("file") == path.name else ""
    blob = path.resolve()
    return blob.name if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob.name) else ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises WeightsError if the file is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}.", hint="Fetch it again.", path=str(path)) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object.", hint="Fetch it again.", path=str(path))
    return content
