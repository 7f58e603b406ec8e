"""What of a URL is shown: never what opens it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from wsi.location import RemoteFile, address, located, shown, without_secrets


@pytest.mark.parametrize(
    ("url", "public", "place"),
    [
        ("https://host/a/b.svs", "https://host/a/b.svs", "host/a/b.svs"),
        ("https://user:SECRET@host:8080/b.svs", "https://host:8080/b.svs", "host:8080/b.svs"),
        ("https://host/b.svs?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET", "https://host/b.svs", "host/b.svs"),
        ("https://host/b.svs?sv=2024&se=2026&sp=r&sig=SECRET", "https://host/b.svs", "host/b.svs"),
        ("https://host/b.svs?Expires=1&Signature=SECRET&Key-Pair-Id=SECRET", "https://host/b.svs", "host/b.svs"),
        ("https://host/b.svs#SECRET=token", "https://host/b.svs", "host/b.svs"),
        ("https://user:SEC/RET?@host/b.svs", "https://host/b.svs", "host/b.svs"),
        ("s3://bucket/a@b.svs", "s3://bucket/a@b.svs", "bucket/a@b.svs"),
        ("abfs://box@account.host/a.svs", "abfs://box@account.host/a.svs", "box@account.host/a.svs"),
        ("http://[::1]:8000/a.svs", "http://[::1]:8000/a.svs", "[::1]:8000/a.svs"),
        ("simplecache::https://SECRET@host/x.tif?token=SECRET", "simplecache::https://host/x.tif", "host/x.tif"),
        ("zip://in/a.svs::https://host/z.zip?sig=SECRET", "zip://in/a.svs::https://host/z.zip", "in/a.svs"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, public: str, place: str) -> None:
    where = located(url)
    assert isinstance(where, RemoteFile)
    assert (str(where), where.place, where.name) == (public, place, place.rpartition("/")[2])
    assert "SEC" not in repr(where) and address(where) == url
    if "#SECRET" not in url:
        assert without_secrets(f"403, url='{url}' in <{url}>.", where) == f"403, url='{public}' in <{public}>."
    assert located(public) == where  # which is all that differs: the same file


def test_a_query_that_tells_files_apart_leaves_a_digest() -> None:
    one, two = located("https://host/get?id=1&sig=x"), located("https://host/get?id=2&sig=x")
    assert one != two and one == located("https://host/get?sig=other&id=1")
    assert str(one).startswith("https://host/get#") and "id" not in str(one)


def test_the_way_to_other_processes_keeps_the_key() -> None:
    where = RemoteFile("https://host/a.svs?sig=SECRET")
    assert pickle.loads(pickle.dumps(where)).url == where.url  # noqa: S301
    assert located(where) is where


def test_paths_stay_paths() -> None:
    assert located("a/b.svs") == located(Path("a/b.svs")) == Path("a/b.svs")
    assert located("C:/slides/a.svs") == Path("C:/slides/a.svs")
    assert located("file:///slides/my%20slide.svs") == Path("/slides/my slide.svs")
    assert located("FILE://localhost/a.svs") == Path("/a.svs")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("https://user:SEC'RET@host/a.svs", "https://host/a.svs"),
        ("https://host/O'Brien.svs?sig=SECRET", "https://host/O'Brien.svs"),
        ("https://host/a b.svs?sig=SECRET", "https://host/a b.svs"),
        ("--config=https://host/a.svs?sig=SECRET", "--config=https://host/a.svs"),
        ("slides/a.svs", "slides/a.svs"),
    ],
)
def test_a_word_that_is_a_url_is_so_to_its_end(word: str, told: str) -> None:
    assert shown(word) == told
