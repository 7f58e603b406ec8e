"""`tissue.geojson` of a slide's folder: written by a run, edited by people, and never lost to the next run."""

from __future__ import annotations

from pathlib import Path

from features.files import storage_errors, write_atomic
from pipeline.geojson import tissue_features, write_geojson
from pipeline.manifest import SlideEntry
from pipeline.output import SlideFolder
from pipeline.record import SlideRecord, TissueRecord
from pipeline.tissuefiles import WantedTissue
from tiling.outline import tissue_outline
from tiling.supervised import PreparedSlide
from wsi.identity import file_sha256, plain

_ASIDE = "tissue-edited-"  # and a digest: what was drawn, and a run had no use for


def write_tissue(
    folder: SlideFolder, prepared: PreparedSlide, tissue: WantedTissue, earlier: SlideRecord | None
) -> tuple[TissueRecord, tuple[str, ...]]:
    """tissue.geojson: the outline of what was detected, or the drawn file as it was given, to be given again.

    What a person drew there and did not ask for is put beside it. The notes tell it where another drawing took its
    place; where tissue is detected, `unused_edits` does, for as long as it is so.
    """
    notes: tuple[str, ...] = ()
    if not _is_given(folder, tissue):
        aside = _aside(folder, earlier)
        _write(folder, prepared, tissue)
        if aside is not None and file_sha256(aside) == file_sha256(folder.tissue):
            aside.unlink()
        elif aside is not None and tissue.file is not None:
            notes = (f"Another tissue.geojson was there, and is kept as {aside.name}.",)
    # Of a drawn file the bytes that were parsed: exported again since, it is another one, and the next run's to parse.
    left = file_sha256(folder.tissue) if tissue.file is None else tissue.file.sha256
    return TissueRecord(plain(tissue.identity), left), notes


def edit_note(folder: SlideFolder, record: SlideRecord) -> tuple[str, ...]:
    """A word to a person who edited tissue.geojson in place, and ran again without saying so."""
    if record.tissue is None or file_sha256(folder.tissue) == record.tissue.sha256:
        return ()
    return ("tissue.geojson was edited since, which has no effect: --tissue-from with this output folder takes it in.",)


def unused_edits(entry: SlideEntry, folder: SlideFolder) -> tuple[str, ...]:
    """A word to a person whose drawing a run put aside, for as long as it lies there and tissue is detected.

    It lies in the slide's folder, or in that of another output folder, where --tissue-from found the file.
    """
    given = entry.tissue.file if entry.tissue is not None else None
    places = dict.fromkeys([folder.path.absolute(), *([] if given is None else [given.parent])])
    return tuple(
        f"{aside.name}, drawn by somebody, is not in force, for the tissue is detected: call it {folder.tissue.name} "
        f"again and give --tissue-from, or delete it ({aside.parent})."
        for place in places
        for aside in sorted(place.glob(f"{_ASIDE}*.geojson"))
    )


def _is_given(folder: SlideFolder, tissue: WantedTissue) -> bool:
    """True where the drawn file is this very file."""
    return tissue.file is not None and folder.tissue.exists() and tissue.file.path.samefile(folder.tissue)


def _aside(folder: SlideFolder, earlier: SlideRecord | None) -> Path | None:
    """Moves a file out of the way that somebody drew or changed; what no record knows may be one."""
    if not folder.tissue.exists():
        return None
    sha256, left = file_sha256(folder.tissue), earlier.tissue if earlier is not None else None
    if left is not None and not left.drawn and sha256 == left.sha256:
        return None
    aside = folder.tissue.with_name(f"{_ASIDE}{sha256[:8]}.geojson")
    with storage_errors(aside):
        folder.tissue.rename(aside)
    return aside


def _write(folder: SlideFolder, prepared: PreparedSlide, tissue: WantedTissue) -> None:
    if tissue.file is None:
        outline = tissue_outline(prepared.mask)
        write_geojson(folder.tissue, tissue_features(outline, prepared.facts.bounds, folder.id))
        return
    with storage_errors(folder.tissue):
        write_atomic(folder.tissue, tissue.file.path.read_bytes(), durable=False)
