"""The clinical table: what a person may write in it, and one readable list of all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import pytest

from heads.splits import check_split, site_folds
from pipeline.csvfile import csv_rows, number
from pipeline.labels import TASKS, Cohort, Question, cohort, read_table
from pipeline.manifest import entries_from
from wsi.errors import ManifestError

LABEL = Question("classification", ("label",))
LIVED = Question("survival", time="time", event="event")
MARKERS = Question("biomarker", ("er", "pr"))
AGE = Question("regression", ("age",))
ABCD = ("a", "b", "c", "d")


def ask(
    folder: Path,
    text: str,
    question: Question = LABEL,
    slides: tuple[str, ...] = ABCD,
    patients_of: Mapping[str, str] | None = None,
) -> Cohort:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return cohort(read_table(folder / "labels.csv"), question, slides, patients_of)


def told(folder: Path, *args: object, **more: object) -> str:
    with pytest.raises(ManifestError) as caught:
        ask(folder, *args, **more)  # type: ignore[arg-type]
    return str(caught.value)


# Reading


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_is_read_as_text(tmp_path: Path, mark: str, encoding: str, newline: str) -> None:
    lines = ["slide,label , age", "NA, null ,007", "", '"x y",ä,1.50', ",,"]
    (tmp_path / "t.csv").write_bytes(newline.join(lines).replace(",", mark).encode(encoding))
    table = read_table(tmp_path / "t.csv")
    assert table.columns == ("slide", "label", "age") and [row.line for row in table.rows] == [2, 4]
    assert table.rows[0].cells == {"slide": "NA", "label": "null", "age": "007"}
    assert table.rows[1].cells == {"slide": "x y", "label": "ä", "age": "1.50"}


def test_decimal_commas_do_not_hide_the_semicolons(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\nslide;x;y\na;1,5;2,5\n" + "c;1,5;so, so, so\n" * 9)
    assert read_table(tmp_path / "t.csv").rows[0].cells == {"slide": "a", "x": "1,5", "y": "2,5"}


def test_columns_that_a_spreadsheet_left_empty_are_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("slide,label,,\na,x,,\nb,y,\n")
    assert read_table(tmp_path / "t.csv").columns == ("slide", "label")


def test_the_manifest_of_remote_slides_is_a_table_too(tmp_path: Path) -> None:
    """Also once it was signed anew; and the list of unknown slides shows no signature."""
    rows = [f"https://host:81/cohort/{name}.svs?X-Amz-Signature=SECRET,{name}" for name in ("a", "b", "unknown")]
    (tmp_path / "m.csv").write_text("\n".join(["slide,label", *rows[:2]]))
    ids = tuple(entry.id for entry in entries_from([tmp_path / "m.csv"]))
    found = ask(tmp_path, "\n".join(["slide,label", *rows]).replace("SECRET", "SECRET2"), slides=ids)
    assert found.slide_ids == ids
    assert "https://host:81/cohort/unknown.svs" in " ".join(found.notes) and "SECRET" not in " ".join(found.notes)


BAD_FILES = [
    (b"slide,label,label\na,x,y\n", "column 'label' is there 2 times"),
    (b"slide,label\na\nb,y\n", "line 2: 1 cells where the header has 2"),
    (b"slide,label\na,x,y\n", "line 2: 3 cells where the header has 2"),
    (b"slide,label\n", "there are no rows"),
    (b"", "the file is empty"),
    ("slide,label\na,ä\n".encode("latin-1"), "is not a CSV in UTF-8"),
    ("slide,label\na,x\n".encode("utf-16"), "is not a CSV in UTF-8"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD_FILES)
def test_what_is_no_table_is_said(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=sentence):
        read_table(tmp_path / "t.csv")


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        csv_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(("cell", "value"), [("12", 12), ("1,5", 1.5), (" -.5 ", -0.5), ("1e3", 1000), ("+2.", 2)])
def test_numbers_have_a_point_or_a_comma(cell: str, value: float) -> None:
    assert number(cell) == value


@pytest.mark.parametrize("cell", ["", "x", "inf", "nan", "1_000", "1,234.5", "1 2", "0x1", "1e999", "٣", "--1"])
def test_what_is_no_number_is_none(cell: str) -> None:
    assert number(cell) is None


# Answers


@pytest.mark.parametrize("task", TASKS)
def test_targets_are_what_train_head_takes(tmp_path: Path, task: str) -> None:
    table = "slide,label,er,pr,age,time,event\na,x,1,pos,61,12.5,1\nb,y,no,,62.5,7,0\nc,x,0,neg,60,3,dead\n"
    question, wanted = {
        "classification": (LABEL, ["x", "y", "x"]),
        "biomarker": (MARKERS, {"er": [1, 0, 0], "pr": [1, None, 0]}),
        "regression": (AGE, [61.0, 62.5, 60.0]),
        "survival": (LIVED, [(12.5, 1), (7.0, 0), (3.0, 1)]),
        "hazard": (Question("hazard", time="time", event="event"), [(12.5, 1), (7.0, 0), (3.0, 1)]),
    }[task]
    found = ask(tmp_path, table, question)
    assert found.targets == wanted and found.slide_ids == ("a", "b", "c")
    assert (found.patients, found.sites, found.folds) == (("a", "b", "c"), None, None)


@pytest.mark.parametrize("seen", ["1", "true", "YES", "Dead", "deceased", "DECEASED", "1:DECEASED", "1.0"])
@pytest.mark.parametrize("not_seen", ["0", "False", "no", "ALIVE", "living", "0:LIVING", "0.0"])
def test_events_have_many_words(tmp_path: Path, seen: str, not_seen: str) -> None:
    found = ask(tmp_path, f"slide,time,event\na,1,{seen}\nb,2,{not_seen}\n", LIVED)
    assert found.targets == [(1.0, 1), (2.0, 0)]


@pytest.mark.parametrize("yes", ["1", "yes", "Pos", "POSITIVE", "true", "1.0"])
@pytest.mark.parametrize("no", ["0", "No", "neg", "negative", "FALSE", "0.0"])
def test_biomarkers_have_many_words(tmp_path: Path, yes: str, no: str) -> None:
    assert ask(tmp_path, f"slide,er,pr\na,{yes},0\nb,{no},1\n", MARKERS).targets == {"er": [1, 0], "pr": [0, 1]}


@pytest.mark.parametrize("empty", ["", "NA", "na", "NaN", "N/A", "null", "None", "."])
def test_cells_without_an_answer_leave_their_slide_out(tmp_path: Path, empty: str) -> None:
    found = ask(tmp_path, f"slide,label\na,x\nb,{empty}\nc,y\nd,x\n")
    assert found.slide_ids == ("a", "c", "d") and found.notes[0] == "1 slide without labels (b)"


def test_a_slide_may_be_called_na(tmp_path: Path) -> None:
    assert ask(tmp_path, "slide,label\nNA,x\nnone,y\n", slides=("none", "NA")).targets == ["y", "x"]


def test_a_slide_with_half_an_answer_is_left_out_and_told(tmp_path: Path) -> None:
    found = ask(tmp_path, "slide,time,event\na,1,1\nb,2,0\nc,5,\nd,,1\n", LIVED)
    assert found.slide_ids == ("a", "b")
    assert "2 slides of these with a time or an event, but not both (c, d)" in found.notes


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    assert ask(tmp_path, "slide;time;event\na;1,5;1\nb;2;0\n", LIVED).targets == [(1.5, 1), (2.0, 0)]


def test_a_column_of_the_censored_is_doubted(tmp_path: Path) -> None:
    question = Question("survival", time="time", event="Censorship")
    assert any(
        "if it is of the censored, use --censored" in n
        for n in ask(tmp_path, "slide,time,Censorship\na,1,1\nb,2,0\n", question).notes
    )


def test_a_column_of_the_censored_is_turned_round(tmp_path: Path) -> None:
    question = Question("survival", time="time", event="Censorship", censoring=True)
    found = ask(tmp_path, "slide,time,Censorship\na,1,1\nb,2,0\nc,3,yes\nd,4,false\ne,5,\n", question)
    assert found.targets == [(1.0, 0), (2.0, 1), (3.0, 0), (4.0, 1)] and not any("--censored" in n for n in found.notes)
    with pytest.raises(ManifestError, match=r"'Censorship' must be 1 \(censored\) or 0 \(seen\).*'dead' \(line 2\)"):
        ask(tmp_path, "slide,time,Censorship\na,1,dead\nb,2,0\n", question)


# Matching


@pytest.mark.parametrize("name", ["a", "a.svs", "slides/a.ndpi", "/data/x/a.svs", "C:\\slides\\a.svs", "./a.svs", "a/"])
def test_slides_are_named_by_id_or_file(tmp_path: Path, name: str) -> None:
    assert ask(tmp_path, f"slide,label\n{name},x\nb,y\n").targets == ["x", "y"]


def test_every_name_that_a_run_knows_a_slide_by_finds_it(tmp_path: Path) -> None:
    names = [
        "p/s.svs",
        "q/s.svs",
        "t.svs",
        "t.tif",
        "ä 1.svs",
        "x__y.svs",
        "TCGA-05.90f6-aa.svs",
        "u.ome.tif",
        "-r.svs",
    ]
    for name in names:
        (tmp_path / "slides" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "slides" / name).write_bytes(b"x")
    entries = entries_from([tmp_path / "slides"])
    assert sorted(e.name for e in entries) == sorted(names)
    for root in ("", "/mnt/old place/slides/"):
        rows = "".join(f"{root}{e.name},{'xy'[i % 2]}\n" for i, e in enumerate(entries))
        found = ask(tmp_path, "slide,label\n" + rows, slides=tuple(e.id for e in entries))
        assert found.targets == ["xy"[i % 2] for i in range(len(names))]


def test_a_file_in_a_folder_is_found_by_its_bare_name_but_not_in_another_folder(tmp_path: Path) -> None:
    found = ask(tmp_path, "slide,label\ns.svs,x\nq/t.svs,x\nu,y\n", slides=("p__s", "p__t", "p__u"))
    assert found.slide_ids == ("p__s", "p__u")
    assert "labels for 1 slide that does not exist (q/t.svs)" in found.notes


def test_the_nearest_of_slides_with_one_name_is_meant(tmp_path: Path) -> None:
    """An id is that slide; a folder decides; a bare name means the slide that lies in none."""
    slides = ("p__s", "p__t.1", "s", "x__y-0a1b2c3d")
    found = ask(tmp_path, "slide,label\np/s.svs,p\ns.svs,-\np/t.1,t\nx__y-0a1b2c3d,x\n", slides=slides)
    assert found.targets == ["p", "t", "-", "x"]
    assert ask(tmp_path, "slide,label\np__s,p\nt.1,t\n", slides=slides).targets == ["p", "t"]


def test_hostile_names_match_nothing(tmp_path: Path) -> None:
    found = ask(tmp_path, "slide,label\na,x\nb,y\n..,x\n.,x\n/,x\n//,x\n../..,x\n")
    assert found.notes == (
        "labels for 5 slides that do not exist (.., ., / and 2 more)",
        "2 slides without labels (c, d)",
        "2 slides without a patient, each counted as one (a, b)",
    )


def test_id_goes_before_slide_and_may_be_empty(tmp_path: Path) -> None:
    assert ask(tmp_path, "slide,id,label\nz.svs,a,x\nb.svs,,y\n").slide_ids == ("a", "b")
    assert ask(tmp_path, "id,slide,label\n1,a.svs,x\n2,b.svs,y\n").slide_ids == ("a", "b")


def test_the_column_that_names_most_slides_is_found(tmp_path: Path) -> None:
    found = ask(tmp_path, "label,near,file\na,a,a.svs\nb,a,x/b.svs\nb,c,c.tif\n")
    assert found.targets == ["a", "b", "b"]
    assert found.notes[0] == "slides are matched by the column 'file'"


def test_a_column_that_is_named_is_used(tmp_path: Path) -> None:
    question = Question("classification", ("label",), id="near")
    assert ask(tmp_path, "label,near,slide\nx,b,a\ny,c,b\n", question).slide_ids == ("b", "c")


def test_labels_for_other_slides_may_say_anything(tmp_path: Path) -> None:
    found = ask(tmp_path, "slide,time,event\na,1,1\nb,2,0\nx,-1,maybe\ny,0,\nz,1,1\n", LIVED)
    assert found.notes[:2] == ("labels for 3 slides that do not exist (x, y, z)", "2 slides without labels (c, d)")


def test_rows_that_name_no_slide_are_told(tmp_path: Path) -> None:
    assert "2 rows without a slide's name (line 3, 5)" in ask(tmp_path, "slide,label\na,x\n,y\nb,y\n,x\n").notes


OWNERS = {"a": "P1", "b": "P1", "c": "P2", "d": "P3"}


@pytest.mark.parametrize("column", ["patient", "case"])
def test_a_table_of_patients_reaches_all_their_slides(tmp_path: Path, column: str) -> None:
    found = ask(tmp_path, f"{column},label\nP2,y\nP1,x\nP9,x\n", patients_of=OWNERS)
    assert (found.slide_ids, found.targets, found.patients) == (("a", "b", "c"), ["x", "x", "y"], ("P1", "P1", "P2"))
    assert found.notes == (
        f"patients are matched by the column {column!r}, each slide taking what is said of its patient",
        "labels for 1 patient without a slide (P9)",
        "1 slide without labels (d)",
    )


def test_the_column_of_patients_that_is_named_joins_them(tmp_path: Path) -> None:
    question = Question("classification", ("label",), patient="case")
    found = ask(tmp_path, "patient,case,label\nP1,P2,x\nP2,P3,y\nP3,P9,y\n", question, patients_of=OWNERS)
    assert (found.slide_ids, found.targets) == (("c", "d"), ["x", "y"])


def test_one_slide_called_like_its_patient_does_not_hide_the_others(tmp_path: Path) -> None:
    owners = {"P1": "P1", "P2_1": "P2", "P2_2": "P2"}
    found = ask(tmp_path, "patient,label\nP1,x\nP2,y\n", slides=tuple(owners), patients_of=owners)
    assert found.targets == ["x", "y", "y"]
    alike = ask(
        tmp_path,
        "patient,label\nP1,x\nP2_1,y\n",
        slides=tuple(owners),
        patients_of=dict(zip(owners, owners, strict=True)),
    )
    assert alike.notes[0] == "slides are matched by the column 'patient'"


def test_patients_sites_and_folds_come_with_the_slides(tmp_path: Path) -> None:
    text = "slide,patient,label,hospital,cv\nc,P2,y,S2,1\na,P1,x,S1,0.0\nb,P1,x,S1,0\n"
    found = ask(tmp_path, text, Question("classification", ("label",), site="hospital", fold="cv"))
    assert (found.patients, found.sites) == (("P1", "P1", "P2"), ("S1", "S1", "S2"))
    assert found.folds is not None and check_split(found.patients, found.folds).tolist() == [0, 0, 1]


def test_patients_that_the_table_lacks_are_those_of_the_run(tmp_path: Path) -> None:
    found = ask(tmp_path, "slide,patient,label\na,,x\nb,P8,x\nc,NA,y\nd,,y\n", patients_of={"a": "P1", "b": "P1"})
    assert found.patients == ("P1", "P8", "c", "d")
    assert found.notes == (
        "2 slides without a patient, each counted as one (c, d)",
        "1 slide of another patient in the table, which is believed (b)",
    )


def test_another_column_of_patients_is_used_if_named(tmp_path: Path) -> None:
    question = Question("classification", ("label",), patient="case")
    assert ask(tmp_path, "slide,patient,case,label\na,P,C1,x\nb,P,C2,y\n", question).patients == ("C1", "C2")


def test_rows_that_agree_are_merged(tmp_path: Path) -> None:
    found = ask(tmp_path, "slide,er,pr\na,1,\nb,0,pos\na.svs,yes,0\nb,,1\n", MARKERS)
    assert found.targets == {"er": [1, 0], "pr": [0, 1]}
    assert "2 rows repeated what another says, and merged (line 4, 5)" in found.notes


def test_slides_of_one_patient_may_differ_where_that_is_asked(tmp_path: Path) -> None:
    text = "slide,patient,label\na,P1,tumour\nb,P1,normal\n"
    assert ask(tmp_path, text, Question("classification", ("label",), slide_level=True)).targets == ["tumour", "normal"]


# Faults

BAD = [
    ("slide,lable\na,x\n", LABEL, "there is no column 'label'; did you mean 'lable'?"),
    ("slide,LABEL\na,x\n", LABEL, "there is no column 'label'; did you mean 'LABEL'?"),
    ("slide,os_time\na,x\n", Question("regression", ("OS_TIME",)), "did you mean 'os_time'?"),
    ("slide,q\na,x\n", LABEL, "there is no column 'label'; the columns are: slide, q"),
    ("slide,label\na,x\n", Question("classification", ("label",), patient="pat"), "there is no column 'pat'"),
    ("slide,label\na,x\n", Question("classification", ("label",), id="slides"), "did you mean 'slide'?"),
    ("slide,label\na,x\n", Question("sorting", ("label",)), "there is no task 'sorting'; tasks are classification"),
    ("slide,label\na,x\n", Question("classification"), "classification asks for one target column, not 0"),
    ("slide,er,pr\na,1,1\n", Question("regression", ("er", "pr")), "regression asks for one target column, not 2"),
    ("slide,er,pr\na,1,1\n", Question("biomarker"), "biomarker asks for one target column or more"),
    ("slide,time,event\na,1,1\n", Question("survival", time="time"), "a column of times and one of events"),
    ("slide,time,event\na,1,1\n", Question("hazard", ("time",), "time", "event"), "and no other target"),
    ("slide,label\na,x\na,y\nb,y\n", LABEL, "rows of slide 'a' disagree in 'label': 'x' (line 2), 'y' (line 3)"),
    ("slide,patient,label\na,P,x\na,Q,x\nb,R,y\n", LABEL, "slide 'a' disagree in 'patient': 'P' (line 2), 'Q'"),
    ("slide,patient,label\na,P,x\nb,P,y\nc,Q,y\n", LABEL, "1 patient with slides that differ in 'label' (P); if"),
    (
        "slide,time,event\na,0,1\nb,-3,0\nc,4,0\n",
        LIVED,
        "'time' must be a number above 0, not '0' (line 2), '-3' (line 3)",
    ),
    ("slide,time,event\na,1 y,1\nb,3,0\n", LIVED, "'time' must be a number above 0, not '1 y' (line 2)"),
    ("slide,time,event\na,inf,1\nb,3,0\n", LIVED, "'time' must be a number above 0, not 'inf'"),
    ("slide,time,event\na,1,maybe\nb,3,2\nc,1,1\n", LIVED, "or living, not 'maybe' (line 2), '2' (line 3)"),
    ("slide,time,event\na,1,1:LIVING\nb,3,0\n", LIVED, "not '1:LIVING' (line 2)"),
    ("slide,time,event\na,1,0\nb,3,no\n", LIVED, "no slide has an event in 'event', so nothing tells high risk"),
    ("slide,time,event\na,3,0\nb,3,1\n", LIVED, "'time' says 3.0 for every slide"),
    ('slide,time,event\na,"1,234",1\nb,3.5,0\n', LIVED, "'time' mixes decimal commas and points (1,234, 3.5)"),
    (
        "slide,er,pr\na,1,0\nb,2,1\n",
        MARKERS,
        "'er' must be 1 or 0, true or false, yes or no, positive or negative, not '2'",
    ),
    ("slide,er,pr\na,dead,0\nb,0,1\n", MARKERS, "not 'dead' (line 2)"),
    ("slide,er,pr\na,1,0\nb,1,1\n", MARKERS, "'er' says 1 for every slide, so there is nothing to learn"),
    ("slide,er,pr\na,1,\nb,0,\n", MARKERS, "'pr' says nothing for every slide"),
    ("slide,age\na,young\nb,3\n", AGE, "'age' must be a number, not 'young' (line 2)"),
    ("slide,age\na,3\nb,3.0\n", AGE, "'age' says 3.0 for every slide, so there is nothing to learn"),
    ("slide,label\na,x\nb,x\n", LABEL, "'label' says x for every slide, so there is nothing to learn"),
    ("slide,label\na,\nb,NA\n", LABEL, "no slide with a label is left: 'label' says nothing of any"),
    ("slide,label\nx,1\ny,2\n", LABEL, "the 4 slides of this run (a, b, c and 1 more): the column 'slide' says x, y"),
    (
        "slide,label,q\na,1,x\n",
        Question("regression", ("label",), id="q"),
        "run (a, b, c and 1 more): the column 'q' says x",
    ),
    ("file,label\nx,1\ny,2\n", LABEL, "the 4 slides of this run (a, b, c and 1 more) in any column: file, label"),
    ("slide,label\na,LUAD\nb,luad\n", LABEL, "labels differ in capitals only: LUAD, luad"),
    ("slide,label,s\na,x,S1\nb,y,\n", Question("classification", ("label",), site="s"), "1 slide without 's' (b)"),
    ("slide,label,f\na,x,1\nb,y,NA\n", Question("classification", ("label",), fold="f"), "1 slide without 'f' (b)"),
]


@pytest.mark.parametrize(("text", "question", "sentence"), BAD)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, text: str, question: Question, sentence: str) -> None:
    said = told(tmp_path, text, question)
    assert sentence in said and "labels.csv: 1 fault:" in said and said.endswith("and run again.")


def test_a_name_that_two_slides_share_is_not_guessed(tmp_path: Path) -> None:
    said = told(tmp_path, "slide,label\ns.svs,x\nq/s.svs,y\n", slides=("p__s", "q__s"))
    assert "line 2: 's.svs' may be p__s, q__s; give the id" in said


def test_patients_that_disagree_with_themselves_are_named(tmp_path: Path) -> None:
    assert "rows of patient 'P1' disagree in 'label': 'x' (line 2), 'y' (line 3)" in told(
        tmp_path, "patient,label\nP1,x\nP1,y\nP2,y\n", patients_of=OWNERS
    )


def test_how_long_a_patient_lives_is_no_matter_of_the_slide(tmp_path: Path) -> None:
    question = Question("survival", time="time", event="event", slide_level=True)
    said = told(tmp_path, "slide,patient,time,event\na,P,1,1\nb,P,2,1\nc,Q,2,0\n", question)
    assert "1 patient with slides that differ in 'time' (P)" in said and "slide_level" not in said


def test_times_and_events_are_read_for_survival_only(tmp_path: Path) -> None:
    question = Question("classification", ("label",), time="time", event="event")
    assert ask(tmp_path, "slide,label,time,event\na,x,-1,0\nb,y,?,0\n", question).targets == ["x", "y"]


def test_sentences_end(tmp_path: Path) -> None:
    assert told(tmp_path, "slide,label\na,x\nb,x\n").endswith(
        "nothing to learn. Mend the table, or name other columns, and run again."
    )
    assert told(tmp_path, "slide,lable\na,x\n").endswith(
        "'lable'? Mend the table, or name other columns, and run again."
    )


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = "slide,patient,time,event,er\na,P,0,perhaps,1\nb,P,2,1,0\nb,P,3,1,0\nc,Q,4,0,0\n"
    said = told(tmp_path, text, Question("survival", time="time", event="event", site="hospital", patient="patient"))
    for sentence in (
        "4 faults",
        "there is no column 'hospital'",
        "'time' must be a number above 0, not '0' (line 2)",
        "not 'perhaps' (line 2)",
        "rows of slide 'b' disagree in 'time': 2.0 (line 3), 3.0 (line 4)",
    ):
        assert sentence in said


def test_tcga_lung_is_read_as_a_table_of_slides(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    with h5py.File(shared_data("bags/tcga_lung_hipt.h5")) as file:
        columns = ("slide_id", "case_id", "site", "oncotree_code", "survival_months", "censorship")
        meta = {c: file[f"meta/{c}"].asstr()[:].tolist() for c in columns}
    lines = [",".join(columns), *(",".join(row) for row in zip(*meta.values(), strict=True))]
    question = Question("classification", ("oncotree_code",), patient="case_id", site="site")
    found = ask(tmp_path, "\n".join(lines), question, slides=tuple(meta["slide_id"]))
    assert found.targets == meta["oncotree_code"] and len(set(found.patients)) == 862
    assert found.notes == ("slides are matched by the column 'slide_id'",)
    assert found.sites is not None and site_folds(found.patients, found.targets, found.sites, 5).optimal
