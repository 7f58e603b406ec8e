"""Heads by name, all through the entry-point group `heads.networks`: our own and those of other packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from features.plugins import load_plugin, plugins
from heads.networks.base import MILNetwork
from heads.problems import refuse

GROUP = "heads.networks"


@dataclass(frozen=True, slots=True)
class Architecture:
    """All it takes to build a network again, but its weights."""

    name: str  # in the registry
    in_dim: int  # D of the bags
    n_out: int
    hidden: int  # width of the tile embedding
    attention: int  # width of the attention layer
    dropout: float  # share of units dropped in training

    def __post_init__(self) -> None:
        sizes = ("in_dim", "n_out", "hidden", "attention")
        wrong = {name: n for name in sizes if type(n := getattr(self, name)) is not int or n < 1}
        problems = [f"{name} is {n!r}, not a whole number of at least 1" for name, n in wrong.items()]
        refuse(problems, "No head can be built like this")

    def build(self) -> MILNetwork:
        """The network with random weights from torch's global generator. Raises UsageError for an unknown name."""
        return head_kind(self.name).build(self)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings a head is trained with where nothing else is asked for: those of its paper, but for the epochs."""

    lr: float
    weight_decay: float
    hidden: int | None = None  # None, here and below: the head has none, and to ask for it is an error
    attention: int | None = None
    dropout: float | None = None
    optimiser: str = "adam"  # adam (decay as in Kingma's L2 form), adamw, or lookahead-radam (decay as in adamw)
    betas: tuple[float, float] = (0.9, 0.999)
    epochs: int = 20  # the papers stop early on validation loss, after 10 to 70; under a falling step size 20 do
    batch_bags: int = 1  # a step; survival by Cox needs several, see the task


@dataclass(frozen=True, slots=True)
class HeadKind:
    """What an entry point of the group names."""

    build: Callable[[Architecture], MILNetwork]
    recipe: Recipe


def head_kind(name: str) -> HeadKind:
    """Raises UsageError for an unknown name, SetupError for a clash or a plug-in that fails to import."""
    kind: HeadKind = load_plugin(GROUP, name, "head")
    return kind


def available_heads() -> list[tuple[str, str, str]]:
    """(name, distribution it comes from, one line on it) of every head, by name. Imports none of them."""
    return plugins(GROUP)
