"""`wsi train`, `wsi predict`, `wsi evaluate` on a drawn cohort: real files in, honest numbers out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli import wsi
from sklearn.metrics import roc_auc_score

from heads import load_head
from heads.bag import StoredBag
from pipeline.headfolder import about_of, unseen_by
from pipeline.training import features_elsewhere

RNG = np.random.default_rng(5)
FAST = ["--set", "epochs=6", "--set", "hidden=16", "--set", "attention=8", "--set", "lr=0.01", "--draws", "20"]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 slides of 24 patients as CLAM caches them; tiles of class b are shifted. And labels.csv."""
    folder = tmp_path_factory.mktemp("clam")
    (folder / "h5_files").mkdir()
    table = ["slide,patient,site,subtype,er,months,died,score"]
    for i in range(48):
        patient, positive = i // 2, (i // 2) % 2
        x = RNG.normal(size=(int(RNG.integers(12, 30)), 8)).astype(np.float32)
        planted = RNG.random(len(x)) < 0.5
        x[planted, 0] += 3 * positive
        with h5py.File(folder / "h5_files" / f"s{i:02}.h5", "w") as f:
            f["features"], f["coords"] = x, np.arange(2 * len(x)).reshape(-1, 2) * 256
        er = "" if patient == 3 else "pos" if positive else "neg"
        months, died = (5 + patient % 7 if positive else 30 + patient % 11), int(patient % 5 != 0)
        subtype = "b" if positive else "a"
        table.append(
            f"s{i:02}.svs,P{patient:02},H{patient % 6},{subtype},{er},{months},{died},{positive + 0.1 * (patient % 3)}"
        )
    (folder / "labels.csv").write_text("\n".join([*table, "gone.svs,P99,H1,a,neg,3,1,0"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def head(cached: Path) -> Path:
    done = train(cached, "subtype", "--target", "subtype")
    assert done.returncode == 0, done.stdout + done.stderr
    return cached / "subtype"


def train(cached: Path, name: str, *words: str):
    source = ["--features", str(cached / "h5_files"), "--labels", str(cached / "labels.csv")]
    return wsi("train", *source, "-o", cached / name, "--folds", "3", *FAST, *words)


def test_a_head_learns_what_was_planted_and_tells_how_well(head: Path) -> None:
    metrics = json.loads((head / "metrics.json").read_text())
    auroc = metrics["overall"]["auroc"]
    assert auroc["value"] > 0.95 and auroc["low"] <= auroc["value"] <= auroc["high"] and len(metrics["folds"]) == 3
    predictions = rows(head / "predictions.csv")
    assert len(predictions) == 24  # patients, not slides
    truth = [r["truth"] == "b" for r in predictions]
    assert roc_auc_score(truth, [float(r["p(b)"]) for r in predictions]) == pytest.approx(auroc["value"], abs=1e-4)
    for name in ("roc.png", "precision-recall.png", "reliability.png", "report.html"):
        assert (head / name).stat().st_size > 1000


def test_no_patient_is_in_two_folds(head: Path) -> None:
    fold_of: dict[str, set[str]] = {}
    for row in rows(head / "folds.csv"):
        fold_of.setdefault(row["patient"], set()).add(row["fold"])
    assert len(fold_of) == 24 and all(len(folds) == 1 for folds in fold_of.values())


def test_slides_without_features_are_told(cached: Path, head: Path) -> None:
    assert any("gone" in note for note in load_head(head).card.about["notes"])
    page = (head / "report.html").read_text()
    assert "gone" in page and "kept back in training" in page


def test_predict_asks_the_fold_that_never_saw_the_slide(cached: Path, head: Path, tmp_path: Path) -> None:
    done = wsi(
        "predict", "--features", cached / "h5_files", "--head", head, "-o", tmp_path / "p.csv", "--abstain", "0.99999"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = {r["id"]: r for r in rows(tmp_path / "p.csv")}
    assert len(said) == 48 and all("left it out" in r["note"] for r in said.values())
    assert any("abstained" in r["note"] and not r["label"] for r in said.values())
    trained, bags = load_head(head), features_elsewhere(cached / "h5_files").bags
    members = unseen_by(trained, ["s04"], "s04")
    fold = next(int(r["fold"]) for r in rows(head / "folds.csv") if r["slide"] == "s04")
    assert members == (fold,)
    assert float(said["s04"]["p(b)"]) == pytest.approx(trained.score(bags["s04"], members).values[1], abs=1e-5)


def test_evaluate_on_the_training_cohort_gives_the_out_of_fold_numbers(cached: Path, head: Path) -> None:
    done = wsi("evaluate", head, "--labels", cached / "labels.csv", "--draws", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    again = json.loads((head / "evaluation-labels.json").read_text())
    first = json.loads((head / "metrics.json").read_text())
    for metric in ("auroc", "brier", "accuracy"):
        assert again["overall"][metric]["value"] == pytest.approx(first["overall"][metric]["value"], abs=1e-6)
    assert any("24 of 24 bags" in note for note in again["notes"])


@pytest.mark.parametrize(
    ("name", "words", "metric", "least"),
    [
        ("er", ["--target", "er", "--task", "biomarker"], "er: auroc", 0.95),
        ("score", ["--target", "score", "--task", "regression"], "spearman", 0.6),
        ("cox", ["--time", "months", "--event", "died", "--task", "survival", "--set", "epochs=60"], "harrell_c", 0.7),
        ("hazard", ["--time", "months", "--event", "died", "--task", "hazard", "--set", "epochs=60"], "harrell_c", 0.7),
        ("clam", ["--target", "subtype", "--head", "clam_mb", "--site", "site"], "auroc", 0.95),
    ],
)
def test_every_task_goes_the_whole_way(cached: Path, name: str, words: list[str], metric: str, least: float) -> None:
    done = train(cached, name, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((cached / name / "metrics.json").read_text())["overall"][metric]["value"] > least
    scored = wsi("predict", "--features", cached / "h5_files", "--head", cached / name, "-o", cached / f"{name}.csv")
    assert scored.returncode == 0 and len(rows(cached / f"{name}.csv")) == 48
    done = wsi("evaluate", cached / name, "--labels", cached / "labels.csv", "--draws", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    # Told by the folds that left each patient out, with their own thresholds and times: the same in every metric.
    again, first = (
        {n: i["value"] for n, i in json.loads((cached / name / file).read_text())["overall"].items()}
        for file in ("evaluation-labels.json", "metrics.json")
    )
    assert again == pytest.approx(first, abs=1e-5, nan_ok=True)


def test_sites_stay_whole_where_asked(cached: Path) -> None:
    if not (cached / "clam" / "folds.csv").exists():
        train(cached, "clam", "--target", "subtype", "--head", "clam_mb", "--site", "site")
    found: dict[str, set[str]] = {}
    for row in rows(cached / "clam" / "folds.csv"):
        found.setdefault(row["site"], set()).add(row["fold"])
    assert len(found) == 6 and all(len(folds) == 1 for folds in found.values())


def test_slides_of_a_patient_may_differ_where_that_is_said(cached: Path, tmp_path: Path) -> None:
    """The patients' second slides are called normal: then slides are told one by one, and folds stay of patients."""
    table = [line.split(",") for line in (cached / "labels.csv").read_text().splitlines()]
    for line in table[2::2]:
        line[3] = "normal"
    (tmp_path / "labels.csv").write_text("\n".join(map(",".join, table)) + "\n")
    words = ["--labels", tmp_path / "labels.csv", "--target", "subtype", "--folds", "2", *FAST]
    refused = wsi("train", "--features", cached / "h5_files", *words, cwd=tmp_path)
    assert refused.returncode == 2 and "ask for --slide-level" in " ".join(refused.stderr.split())
    done = wsi("train", "--features", cached / "h5_files", *words, "--slide-level", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    head = tmp_path / "heads" / "subtype-abmil"  # where nothing else is said
    told = rows(head / "predictions.csv")
    assert len(told) == 48 and [r["slides"] for r in told] == [f"s{i:02}" for i in range(48)]
    assert [r["truth"] for r in told[1::2]] == ["normal"] * 24 and len({(r["patient"], r["fold"]) for r in told}) == 24
    again = wsi("evaluate", head, "--labels", tmp_path / "labels.csv", "--draws", "5")
    assert again.returncode == 0 and "24 patients" in again.stdout, again.stdout + again.stderr


def test_a_head_is_told_in_one_line(head: Path, tmp_path: Path) -> None:
    task, network, tested, metrics = about_of(head / "head.json") or ("", "", "", ())
    assert (task, network, tested) == ("classification of subtype", "abmil", "24 patients, 3 folds")
    overall = json.loads((head / "metrics.json").read_text())["overall"]["auroc"]
    assert metrics == (("auroc", overall["value"], overall["low"], overall["high"]),)
    for odd in ("{}", "no json", '{"about": {"asked": []}, "members": [1]}'):
        (tmp_path / "head.json").write_text(odd)
        assert about_of(tmp_path / "head.json") is None


def test_features_of_another_encoder_or_tile_are_refused(cached: Path, head: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "h5_files"
    other.mkdir(parents=True)
    with h5py.File(other / "t.h5", "w") as f:
        f["features"], f["coords"] = np.ones((4, 8), np.float32), np.zeros((4, 2), np.int64)
        f["features"].attrs["encoder"] = "another"
    done = wsi("predict", "--features", other, "--head", head, "-o", tmp_path / "p.csv")
    assert done.returncode == 4 and "encoder_mismatch" in done.stdout and "this head is for" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--target", "subtpye"], 2, "did you mean 'subtype'"),
        (["--target", "subtype", "--head", "abmill"], 2, "Did you mean 'abmil'"),
        (["--target", "subtype", "--set", "epoch=3"], 2, "no training setting"),
        (["--target", "subtype", "--folds", "20"], 2, "folds"),
        (["--time", "months", "--task", "survival"], 2, "asks for a column of times and one of events"),
        (["--target", "patient"], 2, "folds"),
    ],
)
def test_mistakes_are_sentences(cached: Path, words: list[str], code: int, told: str, tmp_path: Path) -> None:
    done = train(cached, str(tmp_path / "none"), *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert told in " ".join((done.stdout + done.stderr).split()) and "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_packed_file_is_its_own_table(tmp_path: Path) -> None:
    lengths = np.full(12, 6)
    y = np.arange(12) % 2
    x = RNG.normal(size=(72, 5)).astype(np.float32) + 3 * np.repeat(y, lengths)[:, None]
    with h5py.File(tmp_path / "set.h5", "w") as f:
        f["features"], f["offsets"] = x, np.r_[0, np.cumsum(lengths)]
        f["meta/slide_id"] = [f"k{i}" for i in range(12)]
        f["meta/kind"] = ["lo" if v == 0 else "hi" for v in y]
        f["meta/id"] = [f"k{(i + 1) % 12}" for i in range(12)]  # of something else: rows go by the slide they are of
    done = wsi(
        "train", "--features", tmp_path / "set.h5", "--target", "kind", "-o", tmp_path / "h", "--folds", "2", *FAST
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_head(tmp_path / "h").card.task.classes == ("hi", "lo")
    truth = {r["patient"]: r["truth"] for r in rows(tmp_path / "h" / "predictions.csv")}
    assert truth == {f"k{i}": "lo" if i % 2 == 0 else "hi" for i in range(12)}


def test_stored_bags_are_the_read_rows_of_their_grid() -> None:
    class Grid:
        read_status = np.array([0, 2, 1], np.uint8)
        features = np.arange(6, dtype=np.float16).reshape(3, 2)

    bag = StoredBag(Grid(), "s", "e", "")
    assert len(bag) == 2 and bag.load().tolist() == [[0, 1], [4, 5]]


@pytest.fixture
def second(cached: Path, tmp_path: Path) -> Path:
    """Another cohort in a folder of its own: the same files under other names, and three that are odd."""
    folder = tmp_path / "elsewhere" / "h5_files"
    folder.mkdir(parents=True)
    for i in range(12):
        (folder / f"n{i:02}.h5").write_bytes((cached / "h5_files" / f"s{i:02}.h5").read_bytes())
    (folder / "cut.h5").write_bytes((cached / "h5_files" / "s00.h5").read_bytes()[:700])
    with h5py.File(folder / "holes.h5", "w") as f:
        f["features"], f["coords"] = np.full((3, 8), np.nan, np.float32), np.zeros((3, 2), np.int64)
    with h5py.File(folder / "bare.h5", "w") as f:
        f["features"], f["coords"] = np.ones((0, 8), np.float32), np.zeros((0, 2), np.int64)
    return folder


def test_a_bad_slide_costs_itself_and_is_told(head: Path, second: Path, tmp_path: Path) -> None:
    done = wsi("predict", "--features", second, "--head", head, "-o", tmp_path / "p.csv")
    said = " ".join(done.stdout.split())
    assert done.returncode == 3 and len(rows(tmp_path / "p.csv")) == 12
    assert "cut.h5" in said and "holes: " in said and "1 without tiles, so without an answer (bare)" in said
    assert all(not r["note"] for r in rows(tmp_path / "p.csv"))  # nobody here was in training
    (tmp_path / "labels.csv").write_text("slide,subtype\n" + "".join(f"n{i:02},{'ab'[i % 2]}\n" for i in range(12)))
    judged = wsi("evaluate", head, "--labels", tmp_path / "labels.csv", "--features", second, "--draws", "5")
    assert judged.returncode == 0 and "left out: " in judged.stdout and "hold NaN or inf" in judged.stdout


def test_where_no_slide_can_be_scored_no_old_answers_stay(head: Path, second: Path, tmp_path: Path) -> None:
    for file in second.glob("n*.h5"):
        file.unlink()
    (tmp_path / "p.csv").write_text("STALE\n")
    done = wsi("predict", "--features", second, "--head", head, "-o", tmp_path / "p.csv")
    assert done.returncode == 4 and rows(tmp_path / "p.csv") == [] and "STALE" not in (tmp_path / "p.csv").read_text()


def test_a_cohort_of_one_class_is_judged_by_what_it_can(head: Path, second: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("slide,subtype\n" + "".join(f"n{i:02},b\n" for i in range(12)))
    done = wsi("evaluate", head, "--labels", tmp_path / "labels.csv", "--features", second, "--draws", "5")
    assert done.returncode == 0 and "nobody here is a: metrics over all classes cannot be told" in done.stdout
    (tmp_path / "labels.csv").write_text("slide,subtype\n" + "".join(f"n{i:02},c\n" for i in range(12)))
    done = wsi("evaluate", head, "--labels", tmp_path / "labels.csv", "--features", second)
    assert done.returncode == 2 and "the head knows no class c" in " ".join(done.stderr.split())


def test_another_patient_of_the_same_slide_name_was_not_in_training(head: Path) -> None:
    trained = load_head(head)
    fold = next(int(r["fold"]) for r in rows(head / "folds.csv") if r["slide"] == "s04")
    assert unseen_by(trained, ["s04"], "s04") == unseen_by(trained, ["s04"], "P02") == (fold,)
    assert unseen_by(trained, ["s04"], "somebody else") is None


@pytest.mark.parametrize(("column", "option"), [("cv", "--fold-column"), ("site", "--site")])
def test_a_torn_patient_is_refused(cached: Path, tmp_path: Path, column: str, option: str) -> None:
    with open(cached / "labels.csv", newline="") as f:
        table = list(csv.DictReader(f))
    for i, row in enumerate(table):
        row[column] = str(i % 3)
    with open(tmp_path / "labels.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    words = ["--labels", tmp_path / "labels.csv", "--target", "subtype", option, column, *FAST]
    done = wsi("train", "--features", cached / "h5_files", *words, "-o", tmp_path / "h")
    assert done.returncode == 2 and f"24 patients with slides that differ in '{column}'" in " ".join(
        done.stderr.split()
    )


def test_several_biomarkers_are_spread_one_by_one(cached: Path, tmp_path: Path) -> None:
    """Crossed, two markers with gaps have combinations that hardly any patient has."""
    lines = ["slide,m0,m1"]
    for i in range(48):
        m0 = "" if i % 11 == 0 else "neg" if (i // 2) % 2 else "pos"
        m1 = "" if i % 7 == 3 else "pos" if i % 5 == 0 else "neg"
        lines.append(f"s{i:02},{m0},{m1}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    words = ["--labels", tmp_path / "labels.csv", "--target", "m0,m1", "--task", "biomarker", *FAST]
    done = wsi("train", "--features", cached / "h5_files", *words, "-o", tmp_path / "h")
    assert done.returncode == 0, done.stdout + done.stderr
    predictions = rows(tmp_path / "h" / "predictions.csv")
    for marker in ("m0", "m1"):
        positive = [sum(r[marker] == "1" for r in predictions if r["fold"] == str(k)) for k in range(5)]
        assert max(positive) - min(positive) <= 1 and min(positive) >= 1


def test_survival_with_few_events_is_judged_without_curves(cached: Path, tmp_path: Path) -> None:
    lines = ["slide,t,e", *(f"s{i:02},{10 + i},{int(i >= 42)}" for i in range(48))]  # the last to be seen alone die
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    words = ["--labels", tmp_path / "labels.csv", "--time", "t", "--event", "e", "--task", "survival", *FAST]
    done = wsi("train", "--features", cached / "h5_files", *words, "--folds", "3", "-o", tmp_path / "h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "harrell_c" in json.loads((tmp_path / "h" / "metrics.json").read_text())["overall"]


def test_an_output_that_cannot_be_written_is_the_machines_fault(cached: Path, head: Path, tmp_path: Path) -> None:
    done = wsi("predict", "--features", cached / "h5_files", "--head", head, "-o", tmp_path)
    assert done.returncode == 5 and "a folder lies where the file is to be" in " ".join(done.stderr.split())


def test_what_maps_need_is_asked_before_any_slide_is_scored(cached: Path, head: Path, tmp_path: Path) -> None:
    for words, told in ((["--heatmap"], "Maps need the run's own slides"), (["--scale", "foo"], "--scale is one of")):
        done = wsi("predict", "--features", cached / "h5_files", "--head", head, "-o", tmp_path / "p.csv", *words)
        assert done.returncode == 2 and told in " ".join(done.stderr.split()) and not (tmp_path / "p.csv").exists()


def test_nothing_of_an_older_head_stays_in_its_folder(cached: Path, tmp_path: Path) -> None:
    folder = tmp_path / "h"
    folder.mkdir()
    for name in ("roc.png", "evaluation-old.json", "holiday.png"):
        (folder / name).write_text("old")
    done = train(cached, str(folder), "--target", "score", "--task", "regression")
    assert done.returncode == 2 and "holds other files and no head" in " ".join(done.stderr.split())
    (folder / "head.json").write_text("{}")
    done = train(cached, str(folder), "--target", "score", "--task", "regression")
    assert done.returncode == 0 and not (folder / "roc.png").exists() and not (folder / "evaluation-old.json").exists()
    assert (folder / "holiday.png").exists()
