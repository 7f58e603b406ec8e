"""Prompt sets: what a class is called, in which sentences, and where it stands in embedding space."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.problems import refuse
from heads.prompt_faults import faults
from heads.similarity import unit
from wsi.errors import PromptError

_SHIPPED = Path(__file__).with_name("prompts")
_TEXT_BATCH = 64  # sentences encoded at a time: bounds memory


@dataclass(frozen=True, slots=True)
class PromptClass:
    """One class of a prompt set."""

    name: str  # as tables and legends show it
    names: tuple[str, ...]  # as sentences say it, best first
    context: bool = False  # surroundings: takes part in the map of tiles, does not compete for the slide's label
    tumour: bool = False  # heatmaps sum the probabilities of such classes


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Classes and the sentences they are put into. `wsi.identity.digest(prompt_set)` covers every word."""

    name: str
    classes: tuple[PromptClass, ...]
    templates: tuple[str, ...]  # each with one {} for the name

    @property
    def names(self) -> tuple[str, ...]:
        """(C,) of the classes, the order of every row of class embeddings."""
        return tuple(c.name for c in self.classes)

    @property
    def competing(self) -> tuple[int, ...]:
        """Rows of the classes that compete for the slide's label."""
        return tuple(i for i, c in enumerate(self.classes) if not c.context)

    @property
    def tumour(self) -> tuple[int, ...]:
        """Rows of the tumour classes, perhaps none: `p[:, prompts.tumour].sum(axis=1)` is a map of tumour."""
        return tuple(i for i, c in enumerate(self.classes) if c.tumour)

    def compete(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities or shares (C,) as shares among the competing classes: context 0, the rest sums to 1.

        For softmax values that is the softmax over the competing classes. All 0 where none of them has any.
        """
        kept = np.zeros(len(self.classes))
        kept[list(self.competing)] = np.asarray(values, np.float64)[list(self.competing)]
        return (kept / (kept.sum() or 1)).astype(np.float32)

    def label(self, values: NDArray[np.float32]) -> str | None:
        """The competing class with the highest of the probabilities or shares (C,); None where all of them are 0."""
        left = self.compete(values)
        return self.names[int(left.argmax())] if left.any() else None


def available_prompts() -> tuple[str, ...]:
    """Names of the shipped prompt sets."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def load_prompts(name_or_path: str | Path) -> PromptSet:
    """A shipped prompt set by its name, or one from a .toml or .json file:

        name = "lung"                                   # the file's name if left out
        templates = ["an H&E image of {}.", "{}."]
        [[classes]]
        name = "LUAD"
        names = ["lung adenocarcinoma", "LUAD"]         # the class's name if left out
        context = false                                 # see PromptClass
        tumour = true

    Raises PromptError telling all faults of the file at once.
    """
    path = _find(name_or_path)
    content = _parse(path)
    refuse(faults(content), str(path), "Put these right; the shipped sets show the form.", PromptError)
    classes = tuple(
        PromptClass(c["name"], tuple(c.get("names", [c["name"]])), c.get("context", False), c.get("tumour", False))
        for c in content["classes"]
    )
    return PromptSet(content.get("name", path.stem), classes, tuple(content["templates"]))


def text_bank(prompt_set: PromptSet, encoder: Any) -> tuple[NDArray[np.float32], ...]:
    """Unit embeddings of every sentence, per class float32 (names, templates, D), by anything with `encode_texts`."""
    sentences = [t.replace("{}", name) for c in prompt_set.classes for name in c.names for t in prompt_set.templates]
    batches = [sentences[i : i + _TEXT_BATCH] for i in range(0, len(sentences), _TEXT_BATCH)]
    rows = unit(np.concatenate([encoder.encode_texts(batch) for batch in batches])).astype(np.float32)
    table = rows.reshape(-1, len(prompt_set.templates), rows.shape[1])  # (all names, templates, D)
    ends = np.cumsum([len(c.names) for c in prompt_set.classes])
    return tuple(np.split(table, ends[:-1]))


def ensemble(bank: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    """Class embeddings float32 (C, D): w_c = unit(mean over names and templates of unit text embeddings)."""
    return unit([texts.mean(axis=(0, 1), dtype=np.float64) for texts in bank]).astype(np.float32)


def class_embeddings(prompt_set: PromptSet, encoder: Any) -> NDArray[np.float32]:
    """Unit rows float32 (C, D), one per class. Raises UsageError where the encoder knows no words."""
    return ensemble(text_bank(prompt_set, encoder))


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in available_prompts():
        return _SHIPPED / f"{name_or_path}.toml"
    if _is_file(path := Path(name_or_path)):
        return path
    near = difflib.get_close_matches(str(name_or_path), available_prompts(), n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    raise PromptError(
        f"There is no prompt set or file {str(name_or_path)!r}.",
        hint=f"{meant}Shipped sets: {', '.join(available_prompts())}; or give the path of a .toml or .json file.",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise PromptError(f"{path}: it cannot be read ({error.strerror}).", path=str(path)) from error
    except (ValueError, RecursionError) as error:  # of TOML, of JSON or of UTF-8: ValueErrors all; or nested too deep
        raise PromptError(
            f"{path}: {error}.", hint="It must be a TOML or JSON file in UTF-8.", path=str(path)
        ) from error
