"""Which files of a folder count as slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi.errors import SlideMissing
from wsi.listing import find_slides


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


def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by a stub, since tests may run as a user who may read everything."""
    make(tmp_path, "closed/a.svs", "open/b.svs")
    iterdir = Path.iterdir

    def refuse(self: Path):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert found(tmp_path) == ["closed", "open/b.svs"]


def test_no_such_folder(tmp_path: Path) -> None:
    make(tmp_path, "a.svs")
    for name in ("gone", "a.svs", "zero\0byte"):
        with pytest.raises(SlideMissing, match="cannot be read"):
            find_slides(tmp_path / name)
    assert find_slides(tmp_path / "..") != []
