"""The cohort on disk: its files and table, the same bytes from any number of workers, resumed where it stopped."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from pipeline.synthetic import DIAGNOSES, REGIONS, CohortRow, CohortSpec, Scan, draw, recipe, write_cohort
from wsi.errors import StorageError

SCANS = (Scan(0.5, 220.0, 200.0, 20), Scan(0.2525, 210.0, 200.0, 40))
SPEC = CohortSpec(slides=3, seed=900, scans=SCANS, workers=1)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[CohortRow], list[tuple[int, int, str]]]:
    dest, seen = tmp_path_factory.mktemp("cohort"), []
    rows = write_cohort(dest, SPEC, lambda *step: seen.append(step))
    return dest, rows, seen


class TestCohort:
    def test_files_and_progress(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, _, seen = cohort
        names = [f"S00{i}" for i in (1, 2, 3)]
        expected = {"cohort.csv"} | {f"slides/{n}.svs" for n in names} | {f"truth/{n}.json" for n in names}
        expected |= {f"truth/{n}.png" for n in names} | {f"truth/tissue/{n}.png" for n in names}
        assert set(contents(dest)) == expected
        assert seen == [(1, 3, "S001"), (2, 3, "S002"), (3, 3, "S003")]

    def test_the_table_is_the_rows(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, rows, _ = cohort
        with open(dest / "cohort.csv", newline="") as f:
            table = list(csv.DictReader(f))
        columns = ["id", "slide", "patient", "diagnosis", "tumour", "months", "event", "true_risk", "scanner_mpp"]
        assert list(table[0]) == columns == [field.name for field in fields(CohortRow)]
        assert table == [{key: str(value) for key, value in asdict(row).items()} for row in rows]
        assert [row.diagnosis for row in rows] == list(DIAGNOSES)
        assert [row.tumour for row in rows] == [0, 1, 1]
        assert [row.patient for row in rows] == ["P001", "P002", "P003"]
        assert all((dest / row.slide).is_file() for row in rows)

    def test_slides_say_their_scale(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, rows, _ = cohort
        for row, scan in zip(rows, (SCANS[0], SCANS[1], SCANS[0]), strict=True):
            with openslide.OpenSlide(dest / row.slide) as slide:
                assert float(slide.properties["openslide.mpp-x"]) == row.scanner_mpp == scan.mpp
                assert float(slide.properties["openslide.objective-power"]) == scan.objective_power
                assert slide.dimensions == (round(scan.width_um / scan.mpp), round(scan.height_um / scan.mpp))

    def test_truth_is_what_was_drawn(self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]) -> None:
        dest, rows, _ = cohort
        record = json.loads((dest / "truth" / "S002.json").read_text())
        assert record["legend"] == {str(i): name for i, name in enumerate(REGIONS)}
        plan = recipe(901, "adenocarcinoma", mpp=0.2525, width_um=210.0, height_um=200.0)
        drawn = draw(plan)
        assert (np.asarray(Image.open(dest / "truth" / "S002.png")) == drawn.regions).all()
        assert (np.asarray(Image.open(dest / "truth" / "tissue" / "S002.png")) == 255 * drawn.tissue).all()
        assert (record["mask_px"], record["mpp"]) == (drawn.mask_px, rows[1].scanner_mpp)
        with openslide.OpenSlide(dest / rows[1].slide) as slide:
            pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        assert np.abs(pixels.astype(int) - drawn.pixels).mean() < 6

    def test_two_workers_write_the_same_bytes(
        self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]], tmp_path: Path
    ) -> None:
        dest, rows, _ = cohort
        assert write_cohort(tmp_path, replace(SPEC, workers=2)) == rows
        assert contents(tmp_path) == contents(dest)

    def test_what_is_complete_is_kept_and_the_rest_drawn_again(
        self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]]
    ) -> None:
        dest, _, _ = cohort
        before = contents(dest)
        slides = [dest / "slides" / f"S00{i}.svs" for i in (1, 2, 3)]
        slides[1].write_bytes(slides[1].read_bytes()[:1000])
        (dest / "truth" / "S003.json").write_text('{"half": ')
        kept = slides[0].stat().st_mtime_ns
        seen: list[tuple[int, int, str]] = []
        write_cohort(dest, SPEC, lambda *step: seen.append(step))
        assert seen == [(2, 3, "S002"), (3, 3, "S003")]
        assert slides[0].stat().st_mtime_ns == kept
        assert contents(dest) == before

    def test_another_recipe_replaces_the_slide(
        self, cohort: tuple[Path, list[CohortRow], list[tuple[int, int, str]]], tmp_path: Path
    ) -> None:
        one = replace(SPEC, slides=1)
        write_cohort(tmp_path, one)
        before = contents(tmp_path)
        write_cohort(tmp_path, replace(one, seed=950))
        after = contents(tmp_path)
        assert before.keys() == after.keys() and not set(before.values()) & set(after.values())

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StorageError, match="file"):
            write_cohort(tmp_path / "file", SPEC)

    @pytest.mark.parametrize("bad", [{"slides": 0}, {"scans": ()}, {"workers": 0}])
    def test_empty_cohorts_are_refused(self, bad: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            CohortSpec(**bad)  # type: ignore[arg-type]

    def test_default_cohort_is_balanced_and_varied(self) -> None:
        spec = CohortSpec()
        assert spec.slides == 9 and len({scan.mpp for scan in spec.scans}) == 5
        fine = [scan for scan in spec.scans if scan.mpp < 0.3]
        assert fine and max(s.width_um * s.height_um for s in fine) < 0.4 * 2200 * 1600
