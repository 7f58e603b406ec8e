"""Settings: defaults, file, --set; unknown keys refused with the known ones; nothing lost on the way to TOML."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.commands.wishes import configured
from pipeline.config import RunConfig, dump_toml, load_config, setting
from wsi.errors import ConfigError, UsageError


def test_defaults_need_no_file() -> None:
    assert load_config() == RunConfig()
    assert load_config().encoder.name == "plip"


def test_settings_go_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('device = "cpu"\n[tile]\nmpp = 1.0\nmin_tissue = 0.1\n')
    config = load_config(tmp_path / "run.toml", ["tile.mpp=0.25", "encoder.name=demo", "zeroshot.top_k=[1, 10]"])
    assert (config.device, config.tile.mpp, config.tile.min_tissue, config.tile.size_px) == ("cpu", 0.25, 0.1, 224)
    assert (config.encoder.name, config.zeroshot.top_k) == ("demo", (1, 10))


def test_what_is_dumped_comes_back(tmp_path: Path) -> None:
    hostile = 'a "quoted" \\ name\n= [x]'
    config = load_config(settings=[setting("encoder.name", hostile), "tile.stride_px=112", "tile.mpp=0.1"])
    assert config.encoder.name == hostile
    (tmp_path / "run.toml").write_text(dump_toml(config), encoding="utf-8")
    assert load_config(tmp_path / "run.toml") == config


def test_every_field_of_every_section_is_dumped() -> None:
    text = dump_toml(RunConfig())
    for section in dataclasses.fields(RunConfig):
        value = getattr(RunConfig(), section.name)
        if dataclasses.is_dataclass(value):
            assert f"[{section.name}]" in text
            unset = {f.name for f in dataclasses.fields(value) if getattr(value, f.name) is None}
            assert all(f"\n{f.name} = " in text for f in dataclasses.fields(value) if f.name not in unset)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["tile.mmp=0.5"], ["unknown key tile.mmp", "Did you mean tile.mpp?", "size_px", "min_tissue"]),
        (["tyle.mpp=0.5"], ["unknown key tyle", "encoder", "tissue"]),
        (["tile.mpp=fast"], ["tile.mpp", "number", "'fast'"]),
        (["tile.size_px=0"], ["[tile] size_px must be positive, not 0"]),
        (["tile=3"], ["tile is a section"]),
        (["tile.size_px=0", "encoder.batch_size=64"], ["1 fault in"]),
        (["tile.max_upsample=nan"], ["max_upsample"]),
        (["tile.stain=vahadane"], ["[tile]", "none, macenko or reinhard, not 'vahadane'"]),
        (["zeroshot.label_k=7"], ["label_k = 7 must be one of top_k"]),
        (["tile.mmp=1", "encoder.nmae=x"], ["tile.mmp", "encoder.nmae", "2 faults"]),
    ],
)
def test_faults_are_told_together_and_by_name(settings: list[str], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(settings=settings)
    for words in told:
        assert words in str(caught.value)


@pytest.mark.parametrize(("content", "told"), [("tile = [", "not valid TOML"), (None, "cannot be read")])
def test_a_file_that_is_none_is_a_sentence(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=told):
        load_config(path)


def test_a_setting_without_equals_sign_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(settings=["tile.mpp"])


@pytest.mark.parametrize(
    ("settings", "flags", "told"),
    [
        (["tile.stain=macenko"], {"tile.stain": "none"}, ["tile.stain='macenko'", "'none' by an option"]),
        (
            ["device=cpu", "tile={quality=false}"],
            {"device": "cuda", "tile.quality": True},
            ["device=", "tile.quality="],
        ),
        (["tile.mpp=1", "tile.stain=reinhard"], {"tile.stain": "reinhard"}, []),
        (["tile.quality=true", "reader.timeout_s=60"], {"tile.quality": True, "reader.timeout_s": 60.0}, []),
        (["tile.quality=true", "zeroshot.drop=['pen']"], {"zeroshot.drop": ("pen",), "tile.stain": None}, []),
    ],
)
def test_an_option_and_a_setting_say_the_same_or_are_refused(
    settings: list[str], flags: dict[str, object], told: list[str]
) -> None:
    if not told:
        configured(None, settings, flags)
        return
    with pytest.raises(UsageError) as caught:
        configured(None, settings, flags)
    assert all(words in str(caught.value).replace('"', "'") for words in told)


def test_prompts_stay_findable_and_shipped_sets_keep_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # as `make demo` leaves it
    (tmp_path / "mine.toml").write_text("")
    asked = [configured(None, None, {"zeroshot.prompts": p}).zeroshot.prompts for p in ("demo", "mine.toml", "none")]
    assert asked == ["demo", str(tmp_path / "mine.toml"), "none"]
