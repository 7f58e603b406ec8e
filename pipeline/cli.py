"""The command line. Each command gathers its wishes and hands over; nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from wsi.errors import ToolkitError

app = typer.Typer(
    help="From a folder of whole-slide images to features, zero-shot labels, heatmaps and a report. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(
    help="The encoders: which there are, and weights for machines without internet.", no_args_is_help=True
)
app.add_typer(models, name="models")

Slides = Annotated[
    list[str] | None,
    typer.Argument(help="Folders (searched recursively), slide files, URLs, or one manifest CSV.", show_default=False),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Output folder; made if missing, continued if it holds an earlier run.", show_default=False
    ),
]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Output folder of a run.", show_default=False)]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings as TOML; see `wsi config`.", show_default=False)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting over the file's, e.g. tile.mpp=0.25. Repeatable.", show_default=False),
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        help="CSV with a column slide, optionally id, patient, mpp and labels; SLIDES is then where its paths begin.",
        show_default=False,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(min=0.05, max=20, help="um per level-0 pixel of slides that do not tell theirs.", show_default=False),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N slides.", show_default=False)]
EncoderName = Annotated[
    str | None, typer.Option("--encoder", help="See `wsi models list`. \\[default: plip]", show_default=False)
]
Weights = Annotated[str | None, typer.Option(help="Hub id, folder or file of weights.", show_default=False)]
Untrained = Annotated[bool, typer.Option("--untrained", help="The weights are random: store features, show no labels.")]
Stain = Annotated[
    Literal["none", "macenko", "reinhard"] | None,
    typer.Option(case_sensitive=False, help="Normalise stains of H&E. \\[default: none]", show_default=False),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps. \\[default: auto]", show_default=False)]
Prompts = Annotated[
    str | None, typer.Option(help="A shipped prompt set, a TOML/JSON file, or none.", show_default=False)
]
Exact = Annotated[
    bool, typer.Option("--exact", help="Decode every pixel, also where a reader could scale in decoding.")
]
Quality = Annotated[bool, typer.Option("--quality", help="Look tiles over for blur, pen, folds, clipping.")]
Drop = Annotated[
    str | None,
    typer.Option(
        help="Leave out tiles with these quality flags: blur, pen, fold, saturated (with commas), or none.",
        show_default=False,
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Local worker processes; 0 works in this one.")]
Scheduler = Annotated[str, typer.Option(help="Address of a Dask scheduler to work on.", show_default=False)]
TissueFrom = Annotated[
    Path | None,
    typer.Option(
        "--tissue-from",
        help="Folder of GeoJSON with the tissue as drawn in QuPath: <slide id>.geojson, or an output folder.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(help="Seconds of silence until a slide's reader is stopped. \\[default: 300]", show_default=False),
]


@app.command()
def run(
    slides: Slides = None,
    out: Out = ...,  # type: ignore[assignment]
    encoder: EncoderName = None,
    weights: Weights = None,
    untrained: Untrained = False,
    prompts: Prompts = None,
    mpp: Mpp = None,
    config: Config = None,
    settings: Set = None,
    manifest: Manifest = None,
    limit: Limit = None,
    tissue_from: TissueFrom = None,
    exact: Exact = False,
    stain: Stain = None,
    quality: Quality = False,
    drop: Drop = None,
    device: Device = None,
    slide_timeout: Timeout = None,
    hashing: Annotated[
        str | None,
        typer.Option(
            "--hash",
            help="quick, or full: read slides whole, so that a changed byte is noticed later. \\[default: quick]",
            show_default=False,
        ),
    ] = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    log_json: Annotated[
        bool, typer.Option("--log-json", help="A JSON line for each event on standard output; all else on the other.")
    ] = False,
) -> None:
    """Tile, encode, score and report every slide. Repeat the same command to continue after any interruption."""
    from pipeline.commands import running, wishes

    flags: dict[str, object] = {"device": device, "reader.timeout_s": slide_timeout, "zeroshot.prompts": prompts}
    flags |= {"encoder.name": encoder, "encoder.weights": weights, "encoder.untrained": untrained or None}
    left_out = wishes.dropped(drop)
    flags |= {"tile.exact": exact or None, "tile.stain": stain, "reader.hash": hashing}
    flags |= {"tile.quality": quality or bool(left_out) or None, "zeroshot.drop": left_out}
    wanted = wishes.configured(config, settings, flags)
    wishes.check_apart(slides, out)
    entries = wishes.with_drawn_tissue(wishes.chosen_slides(slides, manifest, mpp, limit), tissue_from)
    where = wishes.executor(workers, scheduler)
    raise typer.Exit(running.run(entries, out, wanted, where, log_json=log_json))


@app.command()
def plan(
    slides: Slides = None,
    out: Out = ...,  # type: ignore[assignment]
    encoder: EncoderName = None,
    weights: Weights = None,
    mpp: Mpp = None,
    config: Config = None,
    settings: Set = None,
    manifest: Manifest = None,
    limit: Limit = None,
    stain: Stain = None,
    tissue_from: TissueFrom = None,
    device: Device = None,
) -> None:
    """What a run would do: slides, tiles, bytes, minutes, what is cached, what is wrong. Nothing is written."""
    from pipeline.commands import looking, wishes

    flags = {"encoder.name": encoder, "encoder.weights": weights, "tile.stain": stain, "device": device}
    wanted = wishes.configured(config, settings, flags)
    entries = wishes.with_drawn_tissue(wishes.chosen_slides(slides, manifest, mpp, limit), tissue_from)
    raise typer.Exit(looking.plan(entries, out, wanted))


@app.command()
def tiles(
    slides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SLIDES", help="As for run.", show_default=False),
    ] = None,
    last: Annotated[
        str | None, typer.Argument(metavar="OUT", help="Output folder, unless -o names it.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder, if it is not given last.", show_default=False)
    ] = None,
    save: Annotated[
        Literal["jpg", "png", "webp"] | None,
        typer.Option(case_sensitive=False, help="Write images; without it, coordinates only.", show_default=False),
    ] = None,
    place: Annotated[
        Literal["zip", "folder"] | None,
        typer.Option(
            "--as",
            case_sensitive=False,
            help="One zip a slide, or one file a tile. \\[default: zip]",
            show_default=False,
        ),
    ] = None,
    image_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Of jpg and webp, both lossy; 90 if not given.", show_default=False),
    ] = None,
    quality: Quality = False,
    drop: Drop = None,
    mpp: Mpp = None,
    config: Config = None,
    settings: Set = None,
    manifest: Manifest = None,
    limit: Limit = None,
    tissue_from: TissueFrom = None,
    exact: Exact = False,
    stain: Stain = None,
    slide_timeout: Timeout = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
) -> None:
    """Where the tiles of every slide lie, as CSV and GeoJSON, and with --save their images. No encoder is needed."""
    from pipeline.commands import tiles as command
    from pipeline.commands import wishes

    left_out = wishes.dropped(drop) or ()
    images = command.image_config(save, place, image_quality, left_out)
    given, folder = command.apart([*(slides or ()), *([last] if last else ())], out, manifest)
    wishes.check_apart(given, folder)
    flags = {"tile.exact": exact or None, "tile.stain": stain, "reader.timeout_s": slide_timeout}
    flags |= {"tile.quality": quality or bool(left_out) or None}
    wanted = wishes.configured(config, settings, flags)
    entries = wishes.with_drawn_tissue(wishes.chosen_slides(given, manifest, mpp, limit), tissue_from)
    raise typer.Exit(command.tiles(entries, folder, wanted, images, wishes.executor(workers, scheduler)))


@app.command()
def info(
    slides: Annotated[list[str], typer.Argument(help="Slide files, folders or URLs.", show_default=False)],
    mpp: Mpp = None,
    reader: Annotated[
        str, typer.Option(help="auto, fast, openslide, tiffslide, image, omezarr or package.module:callable.")
    ] = "auto",
) -> None:
    """What a slide is: size, levels, mpp and where it came from, vendor, reader."""
    from pipeline.commands import looking

    raise typer.Exit(looking.info(slides, mpp, reader))


@app.command()
def zeroshot(
    out: OutArgument,
    prompts: Annotated[str, typer.Option(help="A shipped prompt set or a TOML/JSON file.", show_default=False)],
    drop: Drop = None,
    settings: Set = None,
) -> None:
    """New prompts over the features that are there; no slide is opened."""
    from pipeline.commands import results, wishes

    raise typer.Exit(results.zeroshot(out, prompts, settings, wishes.dropped(drop)))


@app.command()
def heatmap(
    out: OutArgument,
    of: Annotated[
        str,
        typer.Option(
            "--of",
            help="tumour, or a class of the prompts in use. \\[default: what the run drew]",
            show_default=False,
        ),
    ] = "",
    head: Annotated[
        Path | None, typer.Option(help="Folder of a trained head: draw its attention.", show_default=False)
    ] = None,
    slide: Annotated[
        list[str] | None, typer.Option(help="Only these slide ids. Repeatable.", show_default=False)
    ] = None,
) -> None:
    """Heatmaps of tile scores (PNG on the thumbnail, GeoJSON for QuPath) from cached features."""
    from pipeline.commands import results

    raise typer.Exit(results.heatmap(out, of, head, slide))


Features = Annotated[
    Path | None,
    typer.Option(
        "--features", help="Features of CLAM, TRIDENT or STAMP (a folder of h5), or a packed h5.", show_default=False
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="CSV, one row a slide or patient. \\[default: the run's own]", show_default=False),
]
Maybe = Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Output folder of a run.", show_default=False)]


@app.command()
def train(
    run: Maybe = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the head. \\[default: OUT/heads/TARGET-HEAD]", show_default=False),
    ] = None,
    labels: Labels = None,
    target: Annotated[
        str | None, typer.Option(help="Column to learn; several, with commas, for biomarkers.", show_default=False)
    ] = None,
    task: Annotated[
        str, typer.Option(help="classification, biomarker, regression, survival (Cox) or hazard (discrete time).")
    ] = "classification",
    time: Annotated[str | None, typer.Option(help="Column of survival times.", show_default=False)] = None,
    event: Annotated[str | None, typer.Option(help="Column of events: 1 seen, 0 censored.", show_default=False)] = None,
    censored: Annotated[
        str | None, typer.Option(help="In its place: a column that is 1 for the censored.", show_default=False)
    ] = None,
    head: Annotated[str, typer.Option(help="See `wsi models list`.")] = "abmil",
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation.")] = 5,
    group: Annotated[
        str | None, typer.Option(help="Column of patients, kept whole. \\[default: patient]", show_default=False)
    ] = None,
    site: Annotated[str | None, typer.Option(help="Column of sites, kept whole if given.", show_default=False)] = None,
    fold_column: Annotated[
        str | None, typer.Option(help="Column with a split of your own.", show_default=False)
    ] = None,
    slide_level: Annotated[
        bool, typer.Option("--slide-level", help="Labels are of slides, which may differ within a patient.")
    ] = False,
    features: Features = None,
    drop: Drop = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Training setting, e.g. epochs=50. Repeatable.", show_default=False),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws of patients.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of folds, weights and draws.")] = 0,
) -> None:
    """Train and test a slide-level head on cached features: cross-validated by patient, with intervals and plots."""
    from pipeline.commands import heads, wishes

    columns = {
        "time": time, "event": event, "censored": censored, "patient": group, "site": site, "fold": fold_column
    }  # fmt: skip
    question = heads.question(task, target, columns, slide_level=slide_level)
    plan = heads.plan(question, head, folds, draws, seed, settings)
    raise typer.Exit(heads.train(run, features, labels, out, question, plan, wishes.dropped(drop) or ()))


@app.command()
def predict(
    run: Maybe = None,
    head: Annotated[Path, typer.Option(help="Folder of a trained head.", show_default=False)] = ...,  # type: ignore[assignment]
    features: Features = None,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Draw attention and contribution maps too.")] = False,
    scale: Annotated[str, typer.Option(help="Of the maps: raw, rank (within a slide) or cohort.")] = "raw",
    abstain: Annotated[
        float | None, typer.Option(min=0, max=1, help="No label below this probability.", show_default=False)
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(help="Quality flags, or none. \\[default: those left out in training]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="CSV to write. \\[default: OUT/predictions.csv]", show_default=False),
    ] = None,
) -> None:
    """A trained head's scores for every slide: mean of its folds, with their spread."""
    from pipeline.commands import heads, wishes

    wanted = heads.Wishes(out, abstain, heatmap, scale, wishes.dropped(drop))
    raise typer.Exit(heads.predict(run, features, head, wanted))


@app.command()
def evaluate(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="Folder of a trained head.", show_default=False)],
    labels: Labels = None,
    on: Annotated[
        Path | None,
        typer.Option("--on", help="Output folder of another run. \\[default: that of training]", show_default=False),
    ] = None,
    features: Features = None,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws of patients.")] = 1000,
) -> None:
    """How good a head is on a labelled cohort; patients it was trained on are told by the fold that left them out."""
    from pipeline.commands import heads

    raise typer.Exit(heads.evaluate(head, labels, on, features, draws))


@app.command()
def verify(
    out: OutArgument,
    slides: Annotated[bool, typer.Option("--slides", help="The slides too: gone, or changed since.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged or left over, so that the same run makes it again.")
    ] = False,
    lines: Annotated[bool, typer.Option("--json", help="A line of JSON for each finding, and nothing else.")] = False,
) -> None:
    """Go over everything a run wrote and tell what is damaged, missing or left over. 0: whole, 3: not."""
    from pipeline.commands import verifying

    raise typer.Exit(verifying.verify(out, slides=slides, repair=repair, as_json=lines))


@app.command()
def report(out: OutArgument) -> None:
    """Write OUT/report.html anew from what is there."""
    from pipeline.commands import results

    raise typer.Exit(results.report(out))


@app.command()
def config(config: Config = None, settings: Set = None) -> None:
    """Print all settings in force as TOML, ready to be saved as run.toml."""
    from pipeline.commands import machine

    machine.show_config(config, settings)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where output would go.")] = Path(),
    encoder: EncoderName = None,
) -> None:
    """Check this machine: packages, readers, device, disk, weights."""
    from pipeline.commands import machine

    raise typer.Exit(machine.doctor(out, encoder or "plip"))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where slides and results go.")] = Path("demo"),
    slides: Annotated[int, typer.Option(min=8, help="How many slides to draw.")] = 9,
    seed: Annotated[int, typer.Option(help="Of the cohort.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Local worker processes.")] = 0,
) -> None:
    """The whole way on slides it draws itself: no slides, no weights, no network needed."""
    from pipeline.commands import running

    raise typer.Exit(running.demo(out, slides, seed, workers))


@models.command("list")
def models_list() -> None:
    """Encoders by name, and the shipped prompt sets."""
    from pipeline.commands import machine

    machine.models_list()


@models.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(help="plip, or a hub id in its layout.")],
    to: Annotated[Path, typer.Option(help="Folder for the weights; give it to --weights later.", show_default=False)],
) -> None:
    """Fetch weights on a machine with internet, to carry them to one without."""
    from pipeline.commands import machine

    machine.models_pull(name, to)


def main() -> NoReturn:
    """Entry point of `wsi`: every error becomes a sentence and an exit code.

    0 done, 1 a bug, 2 usage or configuration, 3 some slides refused, 4 all refused, 5 the machine (weights, disk,
    permission, scheduler), 130 interrupted and resumable.
    """
    try:
        app()
    except ToolkitError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception:  # the last resort of the command line: say that it is our fault, and keep the evidence
        typer.echo(traceback.format_exc(), err=True)
        typer.echo("This is a bug in the toolkit, not in your slides. Please report it with the lines above.", err=True)
        sys.exit(1)
    sys.exit(0)
