"""Which files of a folder count as slides."""

from __future__ import annotations

import builtins
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from wsi.errors import SlideMissing
from wsi.listing import find_slides, list_slides
from wsi.readers import companions


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in find_slides(root)]


def test_known_endings_at_any_depth_sorted(tmp_path: Path) -> None:
    slides = ["B.SVS", "a.svs", "deep/er/c.ome.tif", "deep/d.NDPI", "e.czi", "f.png", "g.qptiff", "h.bif", "i.svslide"]
    make(tmp_path, *slides, "notes.txt", "labels.csv", "a.svs.part", "deep/thumbs.db", "svs")
    assert found(tmp_path) == sorted(slides)
    assert find_slides(str(tmp_path))[0] == tmp_path / "B.SVS"


def test_hidden_and_own_results_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, ".a.svs", "._b.svs", ".cache/c.svs", "out/ledger.jsonl", "out/slides/x/thumbnail.jpg", "d.svs")
    assert found(tmp_path) == ["d.svs"]


def test_a_named_folder_is_searched_whatever_it_holds(tmp_path: Path) -> None:
    make(tmp_path, "ledger.jsonl", "a.svs")
    assert found(tmp_path) == ["a.svs"]


def test_a_dicom_folder_is_one_slide_and_a_lone_file_is_a_file(tmp_path: Path) -> None:
    make(tmp_path, "many/1.dcm", "many/2.DCM", "many/deeper/c.svs", "many/b.svs", "one/1.dcm")
    assert found(tmp_path) == ["many", "many/b.svs", "many/deeper/c.svs", "one/1.dcm"]


def test_what_belongs_to_another_slide(tmp_path: Path) -> None:
    make(tmp_path, "a.mrxs", "a/Data0000.dat", "a/preview.jpg", "b.MRXS", "b/p.png", "c/d.svs", "e_1.jpg", "f.jpg")
    (tmp_path / "e.vms").write_text("ImageFile(0,0)=e_1.jpg\n")
    assert found(tmp_path) == ["a.mrxs", "b.MRXS", "c/d.svs", "e.vms", "f.jpg"]


def test_linked_folders_are_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/a.svs", "cohort/b.svs")
    (tmp_path / "cohort" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cohort" / "loop").symlink_to(tmp_path / "cohort")
    (tmp_path / "cohort" / "c.svs").symlink_to(tmp_path / "elsewhere" / "a.svs")
    (tmp_path / "cohort" / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    assert found(tmp_path / "cohort") == ["b.svs", "c.svs", "gone.svs"]  # a dead link is refused later, by name


def test_links_that_are_not_followed_are_told(tmp_path: Path) -> None:
    """Also those that lead nowhere today: the other site's disk may not be mounted."""
    make(tmp_path, "elsewhere/a.svs", "cohort/b.svs", "cohort/c.mrxs", "cohort/deep/d.svs", "notes.txt")
    cohort = tmp_path / "cohort"
    (cohort / "deep" / "site.2").symlink_to(tmp_path / "elsewhere")
    (cohort / "batch.svs").symlink_to(tmp_path / "elsewhere")
    (cohort / "site3").symlink_to(tmp_path / "unmounted")
    (cohort / "round").symlink_to(cohort / "round")
    (cohort / "gone.svs").symlink_to(tmp_path / "nowhere.svs")  # named like a slide: refused later, by name
    (cohort / "c").symlink_to(tmp_path / "elsewhere")  # the companion of c.mrxs
    (cohort / "notes.txt").symlink_to(tmp_path / "notes.txt")
    (cohort / ".hidden").symlink_to(tmp_path / "elsewhere")
    listing = list_slides(cohort)
    assert [path.relative_to(cohort).as_posix() for path in listing.slides] == [
        "b.svs",
        "c.mrxs",
        "deep/d.svs",
        "gone.svs",
    ]
    unfollowed = [path.relative_to(cohort).as_posix() for path in listing.unfollowed]
    assert unfollowed == ["batch.svs", "deep/site.2", "round", "site3"]
    assert find_slides(cohort) == list(listing.slides)


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, *calls: tuple[Any, str]) -> None:
    """These calls fail for a path called `name` and whatever lies in it, but not for those who may read everything."""
    for owner, call in calls:
        allowed = getattr(owner, call, getattr(builtins, call, None))

        def attempt(path: Any, *arguments: Any, _allowed: Any = allowed, **options: Any) -> Any:
            if name in Path(path).parts:
                raise PermissionError(13, "Permission denied", str(path))
            return _allowed(path, *arguments, **options)

        monkeypatch.setattr(owner, call, attempt, raising=False)


def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by a stub, since tests may run as a user who may read everything."""
    make(tmp_path, "closed/a.svs", "open/b.svs")
    refuse(monkeypatch, "closed", (os, "scandir"))
    assert found(tmp_path) == ["closed", "open/b.svs"]


def test_what_may_be_listed_but_not_looked_at_is_listed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the permission r and without x gives its names, and every other call fails: open, stat, scandir."""
    make(tmp_path, "half/a.svs", "half/deeper/b.svs", "half/notes.txt", "open/c.svs")
    (tmp_path / "half" / "link").symlink_to(tmp_path / "open")
    scandir = os.scandir
    refuse(monkeypatch, "half", (os, "stat"), (os, "lstat"), (os, "scandir"))
    closed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (scandir if Path(path).name == "half" else closed)(path))
    assert found(tmp_path) == ["half/a.svs", "half/deeper", "open/c.svs"]


def test_where_no_entry_can_be_told_from_another_the_folder_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems give names alone, and what each is has to be asked of the entry itself."""
    make(tmp_path, "half/a.svs", "half/deeper/b.svs", "open/c.svs")

    class Unknown:
        name = "a.svs"

        def is_symlink(self) -> bool:
            raise PermissionError(13, "Permission denied", self.name)

    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda p: contextlib.nullcontext([Unknown()]) if Path(p).name == "half" else scandir(p)
    )
    assert found(tmp_path) == ["half", "open/c.svs"]


def test_a_link_that_cannot_be_looked_through_costs_no_other_slide(tmp_path: Path) -> None:
    make(tmp_path, "a.svs", "b/c.svs")
    (tmp_path / "far").symlink_to("x" * 300)  # no file system has such names: ENAMETOOLONG
    listing = list_slides(tmp_path)
    assert listing.slides == (tmp_path / "a.svs", tmp_path / "b" / "c.svs")
    assert listing.unfollowed == (tmp_path / "far",)


def test_a_key_file_that_may_not_be_read_owns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.vms", "a_1.jpg", "b.svs")
    refuse(monkeypatch, "a.vms", (companions, "open"))
    assert found(tmp_path) == ["a.vms", "a_1.jpg", "b.svs"]


def test_a_key_file_with_nonsense_in_it_owns_the_files_that_exist(tmp_path: Path) -> None:
    make(tmp_path, "a_1.jpg")
    (tmp_path / "a.vms").write_text(f"ImageFile={'n' * 5_000}\nMapFile=zero\0byte\nOther=a_1.jpg\n")
    assert found(tmp_path) == ["a.vms"]
    assert companions.files_of(tmp_path / "a.vms") == (tmp_path / "a.vms", tmp_path / "a_1.jpg")


def test_no_such_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.svs")
    for name in ("gone", "a.svs", "zero\0byte"):
        with pytest.raises(SlideMissing, match="cannot be read"):
            find_slides(tmp_path / name)
    assert find_slides(tmp_path / "..") != []
