"""Features that CLAM, TRIDENT and STAMP cached, and packed sets: files written as these tools write them, read back.

The writers here follow CLAM's `extract_features_fp.py` and `save_hdf5`, TRIDENT's `IO.py: save_h5, coords_to_h5` and
`WSI.py: extract_patch_features, extract_slide_features`, and STAMP's `preprocessing/__init__.py: extract_`.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import features
from features import ForeignBag, open_foreign, packed_columns
from features.foreign import h5
from wsi.errors import ArtefactError, UsageError

DIM = 6


def rows(n: int, dim: int = DIM, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, dim)).astype(dtype)


def places(n: int, step: int = 512) -> np.ndarray:
    return np.stack([np.arange(n) * step + 16, np.arange(n) % 3 * step], axis=1).astype(np.int64)


def append_rows(path: Path, assets: dict[str, np.ndarray], attrs: dict[str, dict[str, Any]] | None = None) -> Path:
    """CLAM's and TRIDENT's own writer: a chunk for each row, later calls append."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        for name, value in assets.items():
            if name in file:
                file[name].resize(len(file[name]) + len(value), axis=0)
                file[name][-len(value) :] = value
                continue
            chunks, maxshape = (1, *value.shape[1:]), (None, *value.shape[1:])
            made = file.create_dataset(name, value.shape, value.dtype, chunks=chunks, maxshape=maxshape)
            made[:] = value
            made.attrs.update({k: "None" if v is None else v for k, v in (attrs or {}).get(name, {}).items()})
    return path


def write_clam(path: Path, x: np.ndarray, batch: int = 4) -> Path:
    coords = places(len(x)).astype(np.int32)
    for start in range(0, len(x), batch):
        append_rows(path, {"features": x[start : start + batch], "coords": coords[start : start + batch]})
    return path


def trident_grid(**changes: Any) -> dict[str, Any]:
    grid = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20}
    rest = {"overlap": 0, "name": "s", "savetodir": "job", "level0_width": 9000, "level0_height": 8000}
    return grid | rest | changes


def write_trident(path: Path, x: np.ndarray, encoder: str | None = "uni_v1", **grid: Any) -> Path:
    told = {"name": path.stem, "savetodir": str(path.parent), "encoder": encoder}
    assets = {"features": x, "coords": places(len(x))}
    return append_rows(path, assets, {"features": told, "coords": grid or trident_grid()})


def write_stamp(path: Path, x: np.ndarray, extractor: str = "mahmood-uni", **attrs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"stamp_version": "2.4.0", "extractor": extractor, "unit": "um", "tile_size_um": 256.0}
    told |= {"tile_size_px": 224, "code_hash": "0a1b2c3d", "feat_type": "tile"}
    with h5py.File(path, "w") as file:
        file["coords"] = places(len(x), 256).astype(np.float32)
        file["feats"] = x.astype(np.float16)
        file.attrs.update({k: v for k, v in (told | attrs).items() if v is not None})
    return path


def write_packed(path: Path, **changes: Any) -> Path:
    whole = {
        "features": rows(9, dtype="float16"),
        "offsets": np.array([0, 4, 4, 9]),
        "meta/slide_id": np.array([b"TCGA-05", "schnitt-ä".encode(), b"c"]),
        "meta/age": np.array([b"79.0", b"", b"61.5"]),
        "labels": np.array([1, 0, 1], np.int8),
        "folds": np.arange(12).reshape(2, 2, 3) % 2 == 0,
    }
    with h5py.File(path, "w") as file:
        for name, value in (whole | changes).items():
            if value is not None:
                file[name] = value
    return path


def by_id(found: list[ForeignBag]) -> dict[str, ForeignBag]:
    return {bag.slide_id: bag for bag in found}


@pytest.mark.parametrize("given", [".", "h5_files"])
def test_clam_features_come_back_bit_by_bit_under_the_same_ids_whichever_folder_is_given(
    tmp_path: Path, given: str
) -> None:
    x = rows(11)
    write_clam(tmp_path / "resnet50/h5_files/s.one.h5", x)
    write_clam(tmp_path / "resnet50/h5_files/two.h5", rows(3))
    found = by_id(open_foreign(tmp_path / "resnet50" / given))
    bag = found["s.one"]
    assert sorted(found) == ["s.one", "two"]
    assert (len(bag), bag.n_tiles, bag.dim, bag.dialect, bag.encoder) == (11, 11, DIM, "clam", "")
    assert (bag.tile, bag.coords_unit, bag.span) == ("", "px", None)
    read, coords = bag.load(), bag.coords()
    assert read.dtype == np.float32 and read.flags.c_contiguous and np.array_equal(read, x)
    assert coords is not None and coords.dtype == np.float64 and np.array_equal(coords, places(11))


def test_features_with_an_axis_of_one_slide_are_those_of_its_tiles(tmp_path: Path) -> None:
    append_rows(tmp_path / "s.h5", {"features": rows(5)[None], "coords": places(5)[None]})
    (bag,) = open_foreign(tmp_path)
    assert (len(bag), bag.dim) == (5, DIM)
    assert np.array_equal(bag.load(), rows(5))
    assert np.array_equal(bag.coords(), places(5))


def test_a_tile_alone_is_a_bag_where_its_place_is_told(tmp_path: Path) -> None:
    (bag,) = open_foreign(write_clam(tmp_path / "s.h5", rows(1)))
    assert bag.load().shape == (1, DIM)


@pytest.mark.parametrize("given", [".", "20x_256px_0px_overlap", "20x_256px_0px_overlap/features_uni_v1"])
def test_a_trident_job_gives_its_tile_features_and_passes_over_its_patches(tmp_path: Path, given: str) -> None:
    job = tmp_path / "20x_256px_0px_overlap"
    append_rows(job / "patches/s1_patches.h5", {"coords": places(7)}, {"coords": trident_grid()})
    write_trident(job / "features_uni_v1/s1.h5", rows(7, dtype="float16"))
    (job / "features_uni_v1/s1.h5.lock").write_text("{}")
    (bag,) = open_foreign(tmp_path / given)
    assert (bag.slide_id, bag.dialect, bag.encoder) == ("s1", "trident", "uni_v1")
    assert (bag.tile, bag.coords_unit, bag.span) == ("256 px at 20x", "px", 512)
    assert bag.load().dtype == np.float16 and np.array_equal(bag.load(), rows(7, dtype="float16"))


def test_trident_without_an_encoder_is_named_by_its_folder_and_a_clam_grid_by_its_level(tmp_path: Path) -> None:
    clam_grid = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": "s", "save_path": "p"}
    write_trident(tmp_path / "features_conch_v15/s.h5", rows(3), None, **clam_grid)
    (bag,) = open_foreign(tmp_path)
    assert (bag.dialect, bag.encoder, bag.tile, bag.span) == ("trident", "conch_v15", "256 px at level 1", None)


def test_features_without_coordinates_are_read(tmp_path: Path) -> None:
    (bag,) = open_foreign(append_rows(tmp_path / "s.h5", {"features": rows(4)}))
    assert (len(bag), bag.coords_unit, bag.coords()) == (4, "", None)


def test_slides_without_tiles_are_empty_bags_of_the_common_dimension(tmp_path: Path) -> None:
    write_trident(tmp_path / "told.h5", np.empty((0, DIM), np.float32))
    write_trident(tmp_path / "untold.h5", np.empty(0, np.float32))  # as TRIDENT does where it knows no embedding_dim
    alone = by_id(open_foreign(tmp_path / "untold.h5"))
    write_trident(tmp_path / "full.h5", rows(2))
    found = by_id(open_foreign(tmp_path))
    assert alone["untold"].dim == 0
    assert [len(found[name]) for name in ("full", "told", "untold")] == [2, 0, 0]
    assert len({bag.encoder_digest for bag in found.values()}) == 1
    for name in ("told", "untold"):
        assert found[name].load().shape == (0, DIM)
        assert found[name].coords().shape == (0, 2)  # type: ignore[union-attr]


def test_coordinates_of_no_tiles_may_lack_their_axis(tmp_path: Path) -> None:
    assets = {"features": np.empty((0, DIM), np.float32), "coords": np.empty(0)}  # as TRIDENT before it minded
    (bag,) = open_foreign(append_rows(tmp_path / "s.h5", assets))
    assert bag.coords().shape == (0, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("folder", ["mahmood-uni", "mahmood-uni-0a1b2c3d"])
def test_stamp_features_keep_the_nested_path_as_id_and_micrometres_as_unit(tmp_path: Path, folder: str) -> None:
    write_stamp(tmp_path / folder / "case7/s.1.h5", rows(8))
    (bag,) = open_foreign(tmp_path)
    assert (bag.slide_id, bag.dialect, bag.encoder) == ("case7/s.1", "stamp", "mahmood-uni")
    assert (bag.tile, bag.coords_unit, bag.span) == ("256 um", "um", 256)
    assert bag.load().dtype == np.float16 and np.array_equal(bag.load(), rows(8, dtype="float16"))
    assert np.array_equal(bag.coords(), places(8, 256))


def test_older_stamp_files_tell_less(tmp_path: Path) -> None:
    write_stamp(tmp_path / "v2.h5", rows(2), tile_size_um=None, tile_size=224.0)
    write_stamp(tmp_path / "v1.h5", rows(2), **dict.fromkeys(["tile_size_um", "unit", "extractor", "feat_type"]))
    found = by_id(open_foreign(tmp_path))
    assert (found["v2"].tile, found["v2"].span) == ("224 um", 224)
    assert (found["v1"].tile, found["v1"].coords_unit, found["v1"].span) == ("", "", None)
    assert found["v1"].coords() is None
    assert found["v1"].encoder == ""


def test_packed_bags_are_the_intervals_in_order(tmp_path: Path) -> None:
    found = open_foreign(write_packed(tmp_path / "set.h5"))
    assert [bag.slide_id for bag in found] == ["TCGA-05", "schnitt-ä", "c"]
    assert [len(bag) for bag in found] == [4, 0, 5]
    assert {(bag.dialect, bag.encoder, bag.coords_unit) for bag in found} == {("packed", "", "")}
    assert np.array_equal(np.concatenate([bag.load() for bag in found]), rows(9, dtype="float16"))
    assert found[2].coords() is None and found[1].load().shape == (0, DIM)


def test_a_packed_file_is_its_own_label_table(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "set.h5")
    columns = packed_columns(path)
    assert list(columns) == ["slide_id", "age", "labels", "folds"]
    assert columns["slide_id"] == [bag.slide_id for bag in open_foreign(path)]
    assert columns["age"] == ["79.0", "", "61.5"] and columns["labels"] == [1, 0, 1]
    assert columns["folds"][1][0] == [True, False, True] and type(columns["folds"][0][0][0]) is bool
    bare = write_packed(tmp_path / "bare.h5", **dict.fromkeys(["meta/slide_id", "meta/age", "folds"]))
    assert packed_columns(bare) == {"slide_id": ["0", "1", "2"], "labels": [1, 0, 1]}


def test_other_numbers_become_float32(tmp_path: Path) -> None:
    append_rows(tmp_path / "big.h5", {"features": rows(3).astype(">f4"), "coords": places(3)})
    append_rows(tmp_path / "long.h5", {"features": rows(3).astype("f8"), "coords": places(3)})
    append_rows(tmp_path / "whole.h5", {"features": np.full((3, DIM), 7, np.int16), "coords": places(3)})
    found = by_id(open_foreign(tmp_path))
    assert np.array_equal(found["big"].load(), rows(3))
    assert np.array_equal(found["long"].load(), rows(3))
    assert {bag.load().dtype for bag in found.values()} == {np.dtype("float32")}


def test_an_encoder_has_one_digest_and_another_has_another(tmp_path: Path) -> None:
    write_trident(tmp_path / "a/s.h5", rows(3), "uni_v1")
    write_trident(tmp_path / "b/t.h5", rows(4), "uni_v1")
    write_trident(tmp_path / "c/u.h5", rows(4), "conch_v1")
    write_stamp(tmp_path / "d/v.h5", rows(4), "uni_v1")
    found = by_id(open_foreign(tmp_path))
    digests = [found[name].encoder_digest for name in ("a/s", "b/t", "c/u", "d/v")]
    wide = open_foreign(write_trident(tmp_path / "wide.h5", rows(3, 2 * DIM), "uni_v1"))[0].encoder_digest
    assert digests[0] == digests[1] and len({*digests, wide}) == 4
    assert len(digests[0]) == 64


def test_ids_are_text_for_people_and_tables(tmp_path: Path) -> None:
    write_clam(tmp_path / "a\u0308 1\n.h5", rows(2))  # decomposed, as macOS writes names
    write_clam(Path(str(tmp_path / "b") + "\udcff.h5"), rows(2))  # a byte that is no UTF-8
    assert [bag.slide_id for bag in open_foreign(tmp_path)] == ["ä 1\\n", "b\\xff"]


def write_bad(folder: Path) -> dict[str, Callable[[], object]]:
    """One writer for each fault of a single file, all called s.h5."""
    path = folder / "s.h5"
    x, xy = rows(5), places(5)
    return {
        "features has 5 rows, but coords is int64 of shape (4, 2)": lambda: append_rows(
            path, {"features": x, "coords": xy[:4]}
        ),
        "features has 0 rows, but coords is int64 of shape (5, 2)": lambda: append_rows(
            path, {"features": x[:0], "coords": xy}
        ),
        "but coords is |S1 of shape (5, 2)": lambda: append_rows(
            path, {"features": x, "coords": np.full((5, 2), b"x")}
        ),
        "its datasets are: meta/weights, scores": lambda: append_rows(path, {"meta/weights": x, "scores": x}),
        "features of shape (6,) is one vector for the whole slide": lambda: write_trident(path, x[0]),
        "features of shape (1, 6) is one vector": lambda: append_rows(path, {"features": x[:1]}),
        "features of shape (1, 6) is one vector for": lambda: append_rows(path, {"features": x[:1], "coords": xy}),
        "feats of shape (5, 6) is one vector for the whole patient": lambda: write_stamp(path, x, feat_type="patient"),
        "features is float32 of shape (5, 2, 3), not numbers": lambda: append_rows(
            path, {"features": x.reshape(5, 2, 3)}
        ),
        "features is |S1 of shape (5, 2), not numbers": lambda: append_rows(path, {"features": np.full((5, 2), b"x")}),
        "cannot be read: it is no HDF5 file": lambda: path.write_text("features"),
        "cannot be read: it ends before its own index says": lambda: path.write_bytes(
            write_clam(folder / ".whole", x).read_bytes()[:-900]
        ),
        "a packed file among the files of a folder": lambda: write_packed(path),
    }


@pytest.mark.parametrize("what", list(write_bad(Path())))
def test_a_file_at_fault_is_named_with_its_fault_and_what_to_do(tmp_path: Path, what: str) -> None:
    write_clam(tmp_path / "good.h5", rows(4))
    write_bad(tmp_path)[what]()
    with pytest.raises(ArtefactError) as caught:
        open_foreign(tmp_path)
    assert f"{tmp_path / 's.h5'}: " in caught.value.message and what in caught.value.message
    assert "faults" not in caught.value.message and caught.value.hint.endswith(".")


def test_all_faults_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    write_trident(tmp_path / "features_a/s.h5", rows(3))
    write_trident(tmp_path / "features_b/s.h5", rows(3, 8))
    write_trident(tmp_path / "features_b/t.h5", rows(3, 8))
    for n in range(22):
        (tmp_path / f"cut{n:02}.h5").write_bytes(b"")
    with pytest.raises(ArtefactError, match="24 faults: .*cut00.h5.*cut19.h5.*; and 4 more") as caught:
        open_foreign(tmp_path)
    assert "cut20" not in caught.value.message
    assert caught.value.hint.count("Copy it again") == 1


def test_mixed_dimensions_are_listed_with_counts(tmp_path: Path) -> None:
    for name, dim in {"a": 8, "b": 8, "c": 6, "d": 8}.items():
        write_clam(tmp_path / f"{name}.h5", rows(3, dim))
    with pytest.raises(ArtefactError, match=r"mixed: 8 in 3 \(such as .*a\.h5\), 6 in 1 \(such as .*c\.h5\)\."):
        open_foreign(tmp_path)


def test_two_files_of_one_id_are_refused(tmp_path: Path) -> None:
    for name in ("s", "t"):
        write_trident(tmp_path / f"features_uni_v1/{name}.h5", rows(3))
        write_trident(tmp_path / f"features_conch_v1/{name}.h5", rows(3), "conch_v1")
    with pytest.raises(ArtefactError, match=r"conch_v1/s\.h5 and .*uni_v1/s\.h5 go by one slide id, 's'; .* 1 more id"):
        open_foreign(tmp_path)


def test_a_folder_without_features_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    append_rows(tmp_path / "patches/s_patches.h5", {"coords": places(3)})
    append_rows(tmp_path / "old/s.h5", {"coords": places(3), "imgs": np.zeros((3, 4, 4, 3), np.uint8)})
    (tmp_path / "process_list_autogen.csv").write_text("slide_id\n")
    write_clam(tmp_path / ".hidden/s.h5", rows(2))
    with pytest.raises(UsageError, match=r"looked for files ending in \.h5 .* found 2 h5 files of c.* and 1 other"):
        open_foreign(tmp_path)
    with pytest.raises(UsageError, match="a patch file: it holds coordinates and no features"):
        open_foreign(tmp_path / "patches/s_patches.h5")
    with pytest.raises(UsageError, match="no such file or folder"):
        open_foreign(tmp_path / "gone")


@pytest.mark.parametrize("given", ["", "pt_files", "pt_files/s.pt"])
def test_clam_pt_files_lead_to_the_folder_of_h5_files(tmp_path: Path, given: str) -> None:
    (tmp_path / "pt_files").mkdir()
    (tmp_path / "pt_files/s.pt").write_bytes(b"PK")
    with pytest.raises(UsageError, match=rf"1 \.pt files .* not read.* Give {tmp_path}/h5_files, .* extract again"):
        open_foreign(tmp_path / given)
    write_clam(tmp_path / "h5_files/s.h5", rows(3))
    if given:
        with pytest.raises(UsageError, match=rf"Give {tmp_path}/h5_files, .* as h5\.$"):
            open_foreign(tmp_path / given)
    else:
        assert len(open_foreign(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"offsets": np.array([0, 4, 8])}, "offsets do not ascend from 0 to the 9 rows"),
        ({"offsets": np.array([1, 4, 4, 9])}, "offsets do not ascend from 0"),
        ({"offsets": np.array([0, 5, 4, 9])}, "offsets do not ascend from 0"),
        ({"offsets": np.array([0.0, 9.0])}, r"offsets is float64 of shape \(2,\), not n \+ 1 whole numbers"),
        ({"features": rows(9)[0]}, r"features is float32 of shape \(6,\), not numbers of shape"),
        ({"meta/slide_id": np.array([b"a", b"b"])}, r"meta/slide_id has shape \(2,\), but there are 3 bags"),
        ({"meta/slide_id": np.array([b"a", b"b", b"a"])}, "several bags have the slide id 'a'"),
    ],
)
def test_packed_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    path = write_packed(tmp_path / "set.h5", **changes)
    for read in (open_foreign, packed_columns):
        with pytest.raises(ArtefactError, match=rf"set\.h5: {what}"):
            read(path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": np.zeros(4)}, r"labels has shape \(4,\), but there are 3 bags"),
        ({"folds": np.zeros((3, 2, 2))}, r"folds has shape \(3, 2, 2\), but there are 3 bags"),
        ({"meta/age": np.zeros(1)}, r"meta/age has shape \(1,\)"),
        ({"meta/age": np.array([b"\xff", b"", b""])}, "cannot be read: .*utf-8"),
        ({"meta/labels": np.zeros(3)}, "labels and meta/labels would be one column"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ArtefactError, match=rf"set\.h5: .*{what}"):
        packed_columns(write_packed(tmp_path / "set.h5", **changes))


def test_columns_of_another_kind_of_file_are_a_mistaken_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"s\.h5: not a packed file: it has no offsets"):
        packed_columns(write_clam(tmp_path / "s.h5", rows(2)))


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float16"), (np.inf, "float32"), (1e300, "float64")])
def test_rows_that_are_no_numbers_are_counted_and_located(tmp_path: Path, value: float, dtype: str) -> None:
    x = rows(9, dtype=dtype)
    x[[6, 8], 2] = value
    clam = append_rows(tmp_path / "s.h5", {"features": x, "coords": places(9)})
    with pytest.raises(ArtefactError, match=r"s\.h5: slide 's': 2 of 9 rows of features .* first is row 6\.") as caught:
        open_foreign(clam)[0].load()
    assert caught.value.facts["rows"] == 2
    whole, holed, rest = open_foreign(write_packed(tmp_path / "set.h5", features=x))
    assert len(whole.load()) == 4 and len(holed.load()) == 0
    with pytest.raises(ArtefactError, match="slide 'c': 2 of 5 rows of features .* first is row 6"):
        rest.load()


def test_coordinates_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = write_stamp(tmp_path / "s.h5", rows(3))
    with h5py.File(path, "a") as file:
        file["coords"][1] = np.nan
    (bag,) = open_foreign(path)
    assert len(bag.load()) == 3
    with pytest.raises(ArtefactError, match="1 of 3 rows of coords hold NaN or inf, the first is row 1"):
        bag.coords()


@pytest.mark.parametrize("chunks", [(1, DIM), None])
def test_rows_that_were_never_written_are_not_read_as_zeros(tmp_path: Path, chunks: tuple[int, int] | None) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        made = file.create_dataset("features", (5, DIM), "f4", chunks=chunks)
        if chunks:
            made[:3] = rows(3)
        assert not made[4].any()
    (bag,) = open_foreign(tmp_path)
    with pytest.raises(ArtefactError, match=r"s\.h5: .* parts of features were never written"):
        bag.load()


def test_a_file_that_is_cut_or_replaced_after_it_was_opened_is_not_read_as_if_nothing_were(tmp_path: Path) -> None:
    path = write_clam(tmp_path / "s.h5", rows(60))
    (bag,) = open_foreign(path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(ArtefactError, match=r"s\.h5: this h5 file cannot be read: it ends before .* Copy it again"):
        bag.load()
    path.unlink()
    with pytest.raises(ArtefactError, match=r"s\.h5: .*: there is no such file"):
        bag.coords()
    write_clam(path, rows(61))
    with pytest.raises(ArtefactError, match=r"s\.h5: features has changed since this file was opened"):
        bag.load()


def test_no_file_stays_open_and_bags_travel_to_other_processes(tmp_path: Path) -> None:
    found = open_foreign(write_packed(tmp_path / "set.h5", features=np.full((9, DIM), np.nan)))
    with pytest.raises(ArtefactError):
        found[0].load()
    links = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert tmp_path / "set.h5" not in links
    h5py.File(tmp_path / "set.h5", "a").close()  # HDF5 would refuse to write what it has open for reading
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301


def test_one_row_chunks_are_read_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bag,) = open_foreign(write_clam(tmp_path / "s.h5", rows(40)))
    calls = []
    read = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: calls.append(self.name) or read(self, key))
    bag.load(), bag.coords()
    assert calls == ["/features", "/coords"]


def test_nothing_but_attributes_and_shapes_is_read_on_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trident(tmp_path / "s.h5", rows(4))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: pytest.fail(f"{self.name} was read"))
    assert len(open_foreign(tmp_path)) == 1


def test_threads_take_turns_at_libhdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_foreign(write_packed(tmp_path / "set.h5"))
    inside, most = [0], [0]

    class Slow(h5py.File):
        def __enter__(self) -> Any:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            return super().__enter__()

        def __exit__(self, *error: object) -> None:
            inside[0] -= 1
            super().__exit__(*error)

    monkeypatch.setattr(h5.h5py, "File", Slow)
    with ThreadPoolExecutor(4) as threads:
        read = list(threads.map(ForeignBag.load, found * 4))
    assert most[0] == 1
    assert all(np.array_equal(x, read[i % 3]) for i, x in enumerate(read))


def test_the_names_are_there_and_h5py_comes_with_their_first_use() -> None:
    code = "import sys, features; print('h5py' in sys.modules); features.open_foreign; print('h5py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert {"open_foreign", "ForeignBag", "packed_columns"} <= set(features.__all__)


def test_the_real_lung_set(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("bags/tcga_lung_hipt.h5")
    found, columns = open_foreign(path), packed_columns(path)
    assert (len(found), sum(map(len, found)), {bag.dim for bag in found}) == (958, 42095, {192})
    assert columns["slide_id"] == [bag.slide_id for bag in found]
    assert [columns["oncotree_code"].count(code) for code in ("LUAD", "LUSC")] == [492, 466]
    assert {len(values) for values in columns.values()} == {958}
    assert found[0].load().dtype == np.float16 and found[957].load().shape == (len(found[957]), 192)


def test_the_real_musk_set(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("mil/musk1.h5")
    found, columns = open_foreign(path), packed_columns(path)
    assert (len(found), sum(map(len, found)), found[0].slide_id) == (92, 476, "0")
    assert sum(columns["labels"]) == 47 and np.shape(columns["folds"]) == (5, 10, 92)
    assert found[1].load().shape == (len(found[1]), 166)
