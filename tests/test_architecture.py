"""The house: imports run down, libraries live in one room, the command line starts without the heavy ones.

Every rule is shown to bite by a planted violation.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("wsi", "tiling", "features", "heads", "pipeline")  # from the ground up
GROUND = {"wsi/errors.py", "wsi/geometry.py", "wsi/identity.py"}

# library -> where it may be imported; a folder stands for all below it
HOMES = {
    "openslide": ("wsi/readers/openslide.py", "pipeline/doctor.py"),
    "tiffslide": ("wsi/readers/tiffslide.py",),
    "tifffile": ("wsi/svs.py", "wsi/readers/fast.py"),
    "simplejpeg": ("wsi/readers/fast.py", "wsi/readers/image.py"),
    "zarr": ("features/store.py", "wsi/readers/omezarr.py"),
    "fsspec": ("wsi/remote.py",),
    "aiohttp": ("wsi/remote.py",),
    "s3fs": (),
    "gcsfs": (),
    "h5py": ("features/foreign/h5.py",),
    "open_clip": ("features/encoders/",),
    "timm": ("features/encoders/",),
    "transformers": (),
    "dask": ("pipeline/executor.py",),
    "distributed": ("pipeline/executor.py",),
    "matplotlib": ("pipeline/heatmap.py", "pipeline/plots.py"),
    "rich": ("pipeline/console.py", "pipeline/commands/", "pipeline/demo.py"),
    "typer": ("pipeline/cli.py",),
    "pydantic": ("pipeline/config.py",),
    "jinja2": ("pipeline/report.py",),
    "lifelines": ("heads/metrics/curves.py",),
    "sksurv": (),
}


def modules() -> list[Path]:
    return sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))


def imported(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Dotted names a module imports, anywhere in it, TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            yield base


def climbs(source: str, floor: str) -> list[str]:
    """Imports of a floor above `floor`."""
    above = FLOORS[FLOORS.index(floor) + 1 :]
    return [name for name in imported(ast.parse(source), floor) if name.split(".")[0] in above]


def strays(source: str, where: str) -> list[str]:
    """Imports of libraries whose home is not `where`."""
    names = {name.split(".")[0] for name in imported(ast.parse(source))}
    return [n for n in sorted(names) if n in HOMES and not any(where.startswith(home) for home in HOMES[n])]


def sins(source: str) -> list[str]:
    """What is never done: pickle, eval, exec, bare except, unsafe loading, work on module-level state."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "print"):
            found.append(node.func.id)
        if isinstance(node, ast.Global):
            found.append("global")
        if (
            isinstance(node, ast.keyword)
            and node.arg == "weights_only"
            and getattr(node.value, "value", None) is not True
        ):
            found.append("weights_only")
        if (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and getattr(node.value, "value", None) is not False
        ):
            found.append("allow_pickle")
    names = {name.split(".")[0] for name in imported(ast.parse(source))}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            names -= {"pickle"} if {a.name for a in node.names} == {"UnpicklingError"} else set()  # torch raises it
    return found + sorted(names & {"pickle", "dill", "marshal", "shelve"})


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_keeps_the_rules(path: Path) -> None:
    where, source = path.relative_to(ROOT).as_posix(), path.read_text()
    assert climbs(source, where.split("/")[0]) == []
    assert strays(source, where) == []
    assert sins(source) == []


@pytest.mark.parametrize("where", sorted(GROUND))
def test_the_ground_needs_the_standard_library_only(where: str) -> None:
    names = {n.split(".")[0] for n in imported(ast.parse((ROOT / where).read_text()))} - {"wsi", "__future__"}
    assert names <= set(sys.stdlib_module_names)


def test_no_circle_inside_a_floor() -> None:
    graph = {}
    for path in modules():
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        body = [n for n in ast.parse(path.read_text()).body if not _only_for_types(n)]
        graph[name] = set(_run_imports(body, name))
    assert _circles(graph) == []


def test_planted_violations_are_found() -> None:
    assert climbs("from pipeline.run import Run", "heads") == ["pipeline.run"]
    assert climbs("if TYPE_CHECKING:\n    import heads", "wsi") == ["heads"]
    assert climbs("def f():\n    from features import extract", "tiling") == ["features"]
    assert strays("import zarr", "pipeline/run.py") == ["zarr"]
    assert strays("from matplotlib.figure import Figure", "pipeline/report.py") == ["matplotlib"]
    assert strays("import openslide", "wsi/readers/openslide.py") == []
    assert sins("try:\n    f()\nexcept:\n    pass") == ["bare except"]
    assert sins("import pickle") == sins("from pickle import loads") == ["pickle"]
    assert sins("from pickle import UnpicklingError") == []
    assert sins("eval('1')\nprint(1)") == ["eval", "print"]
    assert sins("torch.load(f, weights_only=False)") == ["weights_only"]
    planted = ast.parse("from wsi.geometry import Size\nfrom pipeline import run\ndef f():\n    import heads")
    assert list(_run_imports(planted.body, "pipeline.x")) == ["wsi.geometry", "pipeline.run"]
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) != []
    assert _circles({"a": {"b"}, "b": set()}) == []


HEAVY = (
    "torch",
    "zarr",
    "dask",
    "distributed",
    "tiffslide",
    "openslide",
    "numpy",
    "matplotlib",
    "pydantic",
    "fsspec",
    "aiohttp",
)


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = "import sys, pipeline.cli; print(','.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.strip().split(",")) & set(HEAVY) == set()


def test_rooms_are_cheap_to_enter() -> None:
    """The reader process imports tiling and wsi; it must not pay for torch or zarr."""
    code = "import sys, tiling.child; print(','.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        set(done.stdout.strip().split(",")) & {"torch", "zarr", "dask", "matplotlib", "pydantic", "open_clip", "fsspec"}
        == set()
    )


def _only_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _run_imports(body: list[ast.stmt], name: str) -> Iterator[str]:
    """Modules of the house that are imported when `name` is, not when one of its functions runs."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FLOORS:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [i for i in inner if _is_module(i)] or [node.module]
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = name if (ROOT / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]
            yield f"{package}.{node.module}" if node.module else package


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _circles(graph: dict[str, set[str]]) -> list[str]:
    """Names that can reach themselves."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph.get(start, ()))
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo.extend(graph.get(name, ()))
        return seen

    return [name for name in graph if name in reach(name)]
