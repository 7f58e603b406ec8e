"""Slides at s3://: the pixels of the local file, through the very packages that a user installs."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli import wsi
from s3_server import Bucket, bucket
from slides import aperio_svs, noise

from pipeline.synthetic import draw, recipe
from wsi import Region, open_slide
from wsi.errors import SlideMissing
from wsi.svs import SvsSpec, write_svs


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    with bucket("slides") as made:
        yield made


def test_pixels_are_those_of_the_local_file(s3: Bucket, tmp_path: Path) -> None:
    pixels = noise(1500, 1700)
    path = aperio_svs(tmp_path / "a.svs", pixels, [pixels[::2, ::2]], compression="jpeg")
    url = s3.put("cohort/a.svs", path.read_bytes())
    with open_slide(path) as local, open_slide(url) as remote:
        assert (remote.reader, remote.size, remote.mpp) == ("fast", local.size, local.mpp)
        for region in (Region(0, 0, 300, 200), Region(1500, 1400, 400, 300), Region(700, 600, 512, 512)):
            np.testing.assert_array_equal(remote.read(region), local.read(region))


def test_a_key_that_is_not_there_is_a_missing_slide(s3: Bucket) -> None:
    with pytest.raises(SlideMissing, match="cohort/none.svs"):
        open_slide(f"{s3.url}/cohort/none.svs")


def test_tiles_of_a_slide_at_s3_are_those_of_the_local_file(s3: Bucket, tmp_path: Path) -> None:
    drawn = draw(recipe(51, "benign", width_um=500.0, height_um=400.0, mpp=0.5, pieces=1, pen=None))
    write_svs(tmp_path / "b.svs", drawn.pixels, SvsSpec(mpp=0.5))
    url = s3.put("b.svs", (tmp_path / "b.svs").read_bytes())
    for where, out in ((url, "remote"), (tmp_path / "b.svs", "local")):
        done = wsi("tiles", where, tmp_path / out, "--save", "png")
        assert done.returncode == 0, done.stdout + done.stderr
    remote, local = (next((tmp_path / out / "slides").iterdir()) for out in ("remote", "local"))
    with zipfile.ZipFile(next(remote.glob("*.zip"))) as far, zipfile.ZipFile(local / "b.zip") as near:
        images = [[packed.read(name) for name in packed.namelist()] for packed in (far, near)]
    assert images[0] == images[1] and len(images[0]) > 3
    with open(tmp_path / "remote/slides.csv", newline="") as table:
        assert [row["slide"] for row in csv.DictReader(table)] == [url]
