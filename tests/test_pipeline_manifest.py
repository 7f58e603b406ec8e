"""Ids that are safe and unique, manifests whose faults are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands.wishes import chosen_slides
from pipeline.manifest import entries_from, read_manifest, safe_id
from wsi.errors import ManifestError, UsageError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize("plain_name", ["S001", "TCGA-CR-7395-01A", "NA", "a.b_c"])
def test_ordinary_names_are_their_own_id(plain_name: str) -> None:
    assert safe_id(plain_name) == plain_name


HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a\nb",
    "a\0b",
    "-rf",
    "CON",
    "x" * 300,
    "<script>",
    "=cmd",
    "",
    ".",
    "..",
    ".hidden",
    "é",
    "e\u0301",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_one_harmless_path_part(name: str, tmp_path: Path) -> None:
    made = safe_id(name)
    assert set(made) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert made[0].isalnum() and len(made) <= 140 and made.lower() != "con"
    assert (tmp_path / made).resolve().parent == tmp_path.resolve()


def test_no_two_hostile_names_share_an_id() -> None:
    assert len({safe_id(n) for n in HOSTILE}) == len(HOSTILE)
    assert safe_id("a/b") != safe_id("a__b")


def test_slides_of_one_stem_keep_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a/s.svs", tmp_path / "b/s.svs", tmp_path / "s.svs", tmp_path / "s.tif", tmp_path / "S.ndpi")
    found = entries_from([tmp_path])
    assert sorted(e.name for e in found) == ["S.ndpi", "a/s.svs", "b/s.svs", "s.svs", "s.tif"]
    assert len({e.id.casefold() for e in found}) == 5


def test_slides_of_one_name_in_two_folders_given_keep_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a/s.svs", tmp_path / "b/s.svs", tmp_path / "b/t.svs", tmp_path / "c/S.svs")
    found = entries_from([tmp_path / "a", tmp_path / "b", tmp_path / "c/S.svs"])
    assert sorted(e.name for e in found) == ["S.svs", "a/s.svs", "b/s.svs", "t.svs"]
    assert sorted(e.id for e in found) == ["S", "a__s", "b__s", "t"]


def test_a_slide_given_twice_is_one(tmp_path: Path) -> None:
    touch(tmp_path / "a/s.svs")
    assert len(entries_from([tmp_path / "a", tmp_path / "a/s.svs", tmp_path])) == 1


def test_a_folder_spelt_in_two_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a/s.svs")
    monkeypatch.chdir(tmp_path)
    assert len(entries_from([Path("a"), tmp_path / "a", tmp_path / "a/../a"])) == 1


def test_folders_behind_links_are_named_and_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path / "all/s.svs", tmp_path / "elsewhere/t.svs")
    (tmp_path / "all/linked").symlink_to(tmp_path / "elsewhere")
    assert [e.id for e in chosen_slides([tmp_path / "all"], None, None, None)] == ["s"]
    assert (
        f"1 linked folder is not followed; give them too to have them: {tmp_path}/all/linked" in capsys.readouterr().out
    )


def test_ids_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    touch(tmp_path / "one/p/s.svs", tmp_path / "two/p/s.svs")
    assert [e.id for e in entries_from([tmp_path / "one"])] == [e.id for e in entries_from([tmp_path / "two"])]


def test_manifest_gives_mpp_patient_and_labels(tmp_path: Path) -> None:
    touch(tmp_path / "NA.svs")
    (tmp_path / "m.csv").write_text('slide,patient,mpp,er\nNA.svs,P1,"0,25",1\n')
    (entry,) = entries_from([tmp_path / "m.csv"])
    assert (entry.id, entry.patient, entry.mpp, entry.labels) == ("NA", "P1", 0.25, {"er": "1"})


def test_all_faults_of_a_manifest_are_told_at_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    (tmp_path / "m.csv").write_text("slide,id,mpp\na.svs,x,nan um\na.svs,x,0.25\ngone.svs,y,900\n,z,\nb.svs\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path / "m.csv")
    told = str(caught.value)
    for expected in (
        "'nan um' is not a number",
        "listed 2 times",
        "'x' is given 2 times",
        "gone.svs",
        "900",
        "line 5",
        "line 6",
    ):
        assert expected in told


def test_a_manifest_without_slides_column_names_the_columns(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,label\na.svs,1\n")
    with pytest.raises(ManifestError, match="no column 'slide'.*file, label"):
        read_manifest(tmp_path / "m.csv")


def test_a_missing_slide_alone_is_left_for_its_turn(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    (tmp_path / "m.csv").write_text("slide\na.svs\ngone.svs\n")
    assert [e.id for e in read_manifest(tmp_path / "m.csv")] == ["a", "gone"]


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slides found"):
        entries_from([tmp_path])
    with pytest.raises(UsageError, match="no such file"):
        entries_from([tmp_path / "nowhere"])


def test_mpp_of_the_command_line_fills_in_what_the_manifest_leaves_open(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs")
    (tmp_path / "m.csv").write_text("slide,mpp\na.svs,0.25\nb.svs,\n")
    found = entries_from([tmp_path / "m.csv"], mpp=0.5)
    assert [(e.mpp, e.mpp_if_missing) for e in found] == [(0.25, 0.5), (None, 0.5)]


def test_slides_beside_a_manifest_are_not_passed_over(tmp_path: Path) -> None:
    """Neither which are done nor which are not would be what was meant: it is said how to have both."""
    table, other = tmp_path / "m.csv", tmp_path / "more"
    touch(tmp_path / "a.svs", other / "b.svs")
    table.write_text("slide\na.svs\n")
    for slides, manifest in (
        ([other / "b.svs"], table),
        ([other, tmp_path], table),
        (["https://host/b.svs"], table),
        ([table], table),
        ([table, other], None),
        ([other, table], None),
    ):
        with pytest.raises(UsageError, match=r"m.csv lists the slides, and others are given beside it.*--manifest"):
            entries_from(slides, manifest)
    with pytest.raises(UsageError, match="gone: there is no such folder"):
        entries_from([tmp_path / "gone"], table)


def test_a_folder_beside_a_manifest_is_where_its_paths_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "all/a.svs", tmp_path / "all/p/b.svs", tmp_path / "all/c.svs")
    (tmp_path / "m.csv").write_text("slide\np/b.svs\n")
    (entry,) = chosen_slides([str(tmp_path / "all")], tmp_path / "m.csv", None, None)
    assert entry.path == tmp_path / "all/p/b.svs"
    assert f"2 slides in {tmp_path}/all not listed in m.csv and left out: a.svs, c.svs" in capsys.readouterr().out
