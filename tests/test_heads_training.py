"""Training on bags with planted tiles, what is refused, and what comes back from disk."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from heads import Bag, TrainConfig, checkpoint, concordance_index, load_head, train_head
from heads.bag import PatientBag, tile_text
from heads.targets import strata_of
from heads.training import divide
from tiling import TileSpec
from wsi.errors import ArtefactError, EncoderMismatch, StorageError, UsageError

DIM = 32
ENCODER = "a" * 64


def make_bag(rng, share, name="s", encoder=ENCODER):
    """A bag of 60 to 100 tiles, a share of them shifted in 8 of 32 dimensions; and which."""
    n = int(rng.integers(60, 101))
    planted = rng.permutation(n) < share * n
    x = rng.normal(size=(n, DIM)) + 2.0 * planted[:, None] * (np.arange(DIM) < 8)
    # Dimensions of very different offset and scale: only a standardised head learns quickly.
    return Bag(x=5 + 0.01 * x, cells=None, slide_id=name, encoder_digest=encoder), planted


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    labels = ["tumour" if i % 2 else "normal" for i in range(20)]
    pairs = [make_bag(rng, 0.15 * (label == "tumour"), f"s{i}") for i, label in enumerate(labels)]
    return SimpleNamespace(bags=[b for b, _ in pairs], planted=[p for _, p in pairs], labels=labels)


@pytest.fixture(scope="module")
def head(cohort):
    return train_head(cohort.bags[:12], cohort.labels[:12], seed=1)


def test_planted_tiles_are_learnt_and_pointed_at(cohort, head):
    scores = [head.score(bag) for bag in cohort.bags]
    assert [s.detail["label"] for s in scores] == cohort.labels  # the last 8 were never seen
    pointed = [roc_auc_score(p, s.per_tile) for p, s in zip(cohort.planted, scores, strict=True) if p.any()]
    assert min(pointed) > 0.9


def test_what_is_kept_back_may_not_take_all_there_is_to_learn_from(cohort):
    """One slide of 20 differs from all others, and lies among those kept back: its patient's."""
    bags, groups = cohort.bags, [f"p{i}" for i in range(20)]
    odd = next(i for i in range(20) if _kept_back(bags, groups, i))
    targets = [float(i == odd) for i in range(20)]
    with pytest.raises(
        UsageError, match="kept back for validation: the target is the same for every bag.*validation=0"
    ):
        train_head(bags, targets, task="regression", groups=groups, patience=3)


def _kept_back(bags, groups, odd):
    strata = strata_of([float(i == odd) for i in range(20)], "regression")
    return odd in divide(np.arange(20), groups, strata, "regression", TrainConfig(patience=3))[1]


@pytest.mark.parametrize(
    ("head", "setting", "value"),
    [("mean", "hidden", 8), ("max", "dropout", 0.5), ("dsmil", "hidden", 8), ("transmil", "attention", 8)],
)
def test_a_setting_that_the_head_has_no_use_for_is_refused(cohort, head, setting, value):
    with pytest.raises(UsageError, match=f"{head}.*has no {setting}"):
        train_head(cohort.bags[:4], cohort.labels[:4], head=head, **{setting: value})


def test_the_card_says_the_settings_as_they_were_used(cohort, head):
    config = head.card.config
    assert (config.lr, config.hidden, config.attention, config.dropout, config.weight_decay) == (
        5e-4,
        512,
        128,
        0.25,
        1e-4,
    )
    assert (config.batch_bags, config.epochs) == (1, len(head.card.losses))


def test_a_score_says_what_it_is(cohort, head):
    score = head.score(cohort.bags[0])
    assert score.values.shape == (2,) and score.values.dtype == np.float32
    assert score.values.sum() == pytest.approx(1) and score.per_tile.sum() == pytest.approx(1, abs=1e-5)
    assert score.per_tile.shape == (len(cohort.bags[0]),)
    assert score.detail == {
        "task": "classification",
        "slide_id": "s0",
        "classes": ["normal", "tumour"],
        "label": "normal",
    }
    assert score.head_digest == head.digest
    json.dumps(score.detail)


def test_three_whole_number_classes_and_the_plain_form():
    rng = np.random.default_rng(2)
    labels = np.arange(18) % 3 * 10
    bags = [make_bag(rng, label / 40)[0] for label in labels]
    head = train_head(bags, labels, head="abmil_plain", epochs=40)
    assert head.card.task.classes == (0, 10, 20)
    assert np.mean([head.score(b).detail["label"] == label for b, label in zip(bags, labels, strict=True)]) > 0.8


def test_survival_risk_is_higher_where_events_are_earlier():
    rng = np.random.default_rng(3)
    share = rng.uniform(0, 0.5, 40)
    bags = [make_bag(rng, s)[0] for s in share]
    time, event = 10 - 15 * share + rng.uniform(0, 0.5, 40), rng.uniform(size=40) < 0.7
    head = train_head(bags[:24], list(zip(time, event, strict=True))[:24], task="survival", epochs=40)
    scores = [head.score(bag) for bag in bags[24:]]
    risk = [s.values[0] for s in scores]
    assert concordance_index(time[24:], event[24:], risk) > 0.8
    assert scores[0].values.shape == (1,) and scores[0].detail["direction"] == "higher = worse"


@pytest.mark.parametrize("form", [dict, np.array])
def test_biomarkers_are_learnt_where_they_are_known(form):
    rng = np.random.default_rng(4)
    first = [i % 2 for i in range(20)]
    bags = [make_bag(rng, 0.3 * f)[0] for f in first]
    known = [f if i < 14 else None for i, f in enumerate(first)]
    other = [1 - f if i >= 6 else None for i, f in enumerate(first)]
    names = ["MSI", "KRAS"]
    targets = {"MSI": known, "KRAS": other}
    if form is np.array:
        names, targets = ["marker_0", "marker_1"], np.array([known, other], dtype=float).T
    head = train_head(bags, targets, task="biomarker")
    p = np.array([head.score(bag).values for bag in bags])
    assert head.score(bags[0]).detail["names"] == names
    assert ((p[:, 0] > 0.5) == first).all() and ((p[:, 1] < 0.5) == first).all()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(cohort, head):
    again = train_head(cohort.bags[:12], cohort.labels[:12], seed=1)
    other = train_head(cohort.bags[:12], cohort.labels[:12], seed=2)
    assert again.digest == head.digest != other.digest
    for name, tensor in head.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
        assert name.endswith(("mean", "std", "weigh.bias")) or not torch.equal(tensor, other.model.state_dict()[name])


def test_training_and_loading_leave_the_callers_torch_as_it_was(cohort, head, tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        train_head(cohort.bags[:2], cohort.labels[:2], epochs=1)
        load_head(head.save(tmp_path)).score(cohort.bags[0])
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def test_standardisation_is_that_of_all_training_tiles(cohort, head):
    tiles = np.concatenate([bag.x for bag in cohort.bags[:12]]).astype(float)
    np.testing.assert_allclose(head.model.mean, tiles.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(head.model.std, tiles.std(axis=0), rtol=1e-5)


def test_a_dimension_that_varies_by_rounding_alone_is_not_blown_up():
    rng = np.random.default_rng(6)
    x = np.c_[rng.normal(size=(8, 2)), np.full((8, 2), 0.1)].astype(np.float32)
    x[::2, 3] = np.nextafter(x[1, 3], np.float32(1))
    head = train_head([bag_like(x=x), bag_like(x=-x)], [0, 1], epochs=2)
    assert head.model.std[2:].tolist() != [1, 1]
    head = train_head([bag_like(x=x)] * 2, [0, 1], epochs=2)
    assert head.model.std[2:].tolist() == [1, 1]


def test_one_step_of_one_bag_works_and_losses_are_told(cohort):
    head = train_head(cohort.bags[:3], cohort.labels[:3], epochs=2, batch_bags=1)
    assert len(head.card.losses) == 2 and head.card.n_bags == 3
    assert (head.card.config.epochs, head.card.config.batch_bags) == (2, 1)


def bag_like(**changes):
    given = {"x": np.ones((2, 3)), "cells": None, "slide_id": "s", "encoder_digest": ENCODER}
    return Bag(**(given | changes))


@pytest.mark.parametrize(
    ("bags", "targets", "task", "said"),
    [
        ([], [], "classification", ["there are no bags", "two classes are needed"]),
        ([bag_like()] * 3, ["a", "b"], "classification", ["3 bags and 2 targets"]),
        ([bag_like()] * 2, ["a", "a"], "classification", ["two classes are needed at least, but the labels are ['a']"]),
        ([bag_like()] * 2, ["a", 1], "classification", ["mix words and numbers"]),
        ([bag_like()] * 2, ["a", float("nan")], "classification", ["words or whole numbers, not nan"]),
        ([bag_like()] * 2, ["a", None], "classification", ["words or whole numbers, not None"]),
        (
            [bag_like(), bag_like(encoder_digest="b" * 64, x=np.empty((0, 3)), slide_id="void")],
            ["a", "a"],
            "classification",
            ["1 bag has no tiles (void)", "2 encoders are mixed (aaaaaaaaaaaa, bbbbbbbbbbbb)", "two classes"],
        ),
        ([bag_like(), bag_like(x=np.ones((2, 4)))], ["a", "b"], "classification", ["differ in features a tile (3, 4)"]),
        ([bag_like()] * 3, [(1, 0), (0, 0), (2, 0)], "survival", ["above 0 (target 1)", "no target has an event"]),
        ([bag_like()] * 2, [(None, 1), (2, 3)], "survival", ["a number (target 0)", "event must be 1 (seen)"]),
        ([bag_like()] * 2, [(1, "dead"), (2, 0)], "survival", ["(time, event) pairs of numbers"]),
        ([bag_like()] * 2, [1, 2], "survival", ["(time, event) pairs of numbers"]),
        ([bag_like()] * 2, {"MSI": [1, 1], "TP53": [0, 2]}, "biomarker", ["MSI needs both", "TP53 must be 1, 0"]),
        ([bag_like()] * 2, {"MSI": [1, 0], "TP53": [0]}, "biomarker", ["differ in length", "and None targets"]),
        ([bag_like()] * 2, {"MSI": ["yes", 0]}, "biomarker", ["MSI must be 1, 0 or missing"]),
        ([bag_like()] * 2, {}, "biomarker", ["there is no biomarker"]),
        ([bag_like()] * 2, [1, 0], "biomarker", ["named columns or an array (slides, markers)"]),
        ([bag_like()] * 2, [1, 0], "ranking", ["no task 'ranking'", "classification, survival, hazard, biomarker"]),
        ([bag_like()] * 2, [1.5, 1.5], "regression", ["the same for every bag"]),
        ([bag_like()] * 2, [1.5, None], "regression", ["must be a number (target 1)"]),
        ([bag_like()] * 2, ["x", 2], "regression", ["the target must be a number"]),
        (
            [
                bag_like(tile="1 px, b", slide_id="p"),
                PatientBag("x", (bag_like(tile="1 px"), bag_like(tile="1 px, b"))),
            ],
            ["a", "b"],
            "classification",
            ["tiles of 2 kinds are mixed (1 px: 1 slide, s; 1 px, b: 2 slides, p, s); run those of one kind once more"],
        ),
    ],
)
def test_all_that_is_wrong_is_told_before_training(bags, targets, task, said):
    with pytest.raises(UsageError) as caught:
        train_head(bags, targets, task=task)
    assert [s for s in said if s not in str(caught.value)] == []


def test_settings_are_checked_at_once():
    said = r"epochs is 0.*hidden is 1\.5.*batch_bags is 0.*seed is None.*lr is nan.*weight_decay is -1.*dropout is 1"
    with pytest.raises(UsageError, match=said):
        TrainConfig(epochs=0, hidden=1.5, batch_bags=0, seed=None, lr=float("nan"), weight_decay=-1, dropout=1)


def test_training_that_runs_away_is_not_saved(cohort):
    with pytest.raises(UsageError, match="out of bounds"):
        train_head(cohort.bags, cohort.labels, lr=1e30, epochs=3)


def test_a_foreign_bag_is_refused_by_name(cohort, head):
    with pytest.raises(EncoderMismatch, match=r"'s9'.*encoder bbbbbbbbbbbb; this head is for aaaaaaaaaaaa\."):
        head.score(make_bag(np.random.default_rng(0), 0, "s9", "b" * 64)[0])
    with pytest.raises(EncoderMismatch, match="3 features a tile; this head takes 32"):
        head.score(bag_like())
    with pytest.raises(UsageError, match="no tiles"):
        head.score(bag_like(x=np.empty((0, DIM))))


def test_a_head_of_normalised_stains_refuses_others_and_the_other_way_round(head):
    plain, normalised = (tile_text(TileSpec(stain=stain)) for stain in ("none", "macenko"))
    for ours, theirs in ((plain, normalised), (normalised, plain)):
        trained = replace(head, card=replace(head.card, tile=ours))
        with pytest.raises(EncoderMismatch, match=re.escape(f"'s9' are {theirs}; this head was trained on {ours}.")):
            trained.score(bag_like(x=np.ones((2, DIM)), slide_id="s9", tile=theirs))
        trained.score(bag_like(x=np.ones((2, DIM)), tile=ours))


@pytest.mark.parametrize("task", ["classification", "survival", "hazard", "biomarker", "regression"])
def test_a_head_comes_back_from_disk_bit_for_bit(cohort, tmp_path, task):
    bags = cohort.bags[:4]
    targets = {
        "classification": "abab",
        "survival": [(1, 1), (2, 0), (3, 1), (4, 0)],
        "hazard": [(1, 1), (2, 0), (3, 1), (4, 0)],
        "biomarker": {"MSI": [1, 0, None, 1]},
        "regression": [1.5, 2, -3, 0],
    }
    head = train_head(bags, targets[task], task=task, epochs=2)
    back = load_head(head.save(tmp_path / "new" / "head"))
    assert back.card == head.card and back.digest == head.digest
    for bag in cohort.bags:
        ours, theirs = head.score(bag), back.score(bag)
        assert np.array_equal(ours.values, theirs.values) and np.array_equal(ours.per_tile, theirs.per_tile)
        assert ours.detail == theirs.detail


def test_the_digest_is_of_the_files_contents(head, tmp_path):
    head.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.json", "head.safetensors"]
    content = (tmp_path / "head.json").read_bytes() + (tmp_path / "head.safetensors").read_bytes()
    assert head.digest == hashlib.sha256(content).hexdigest()


def test_head_json_says_what_the_head_is(head, tmp_path):
    card = json.loads((head.save(tmp_path) / "head.json").read_text())
    assert (card["format"], card["version"], card["encoder_digest"]) == ("mil-head", 3, ENCODER)
    (member,) = card["members"]
    assert member["architecture"] == {
        "name": "abmil",
        "in_dim": 32,
        "n_out": 2,
        "hidden": 512,
        "attention": 128,
        "dropout": 0.25,
    }
    assert member["task"] == {"kind": "classification", "classes": ["normal", "tumour"]}
    assert card["config"]["seed"] == 1 and card["versions"].keys() == {"toolkit", "torch", "numpy"}


def resealed(path, card):
    """Write head.json as if the toolkit had said so."""
    path.write_text(json.dumps(card | {"card_sha256": checkpoint._sealed(card)}))


def rewrite(folder, change):
    """Save other tensors and say so in head.json, as a well-meaning editor would."""
    tensors = load_file(folder / "head.safetensors")
    change(tensors)
    save_file(tensors, folder / "head.safetensors")
    card = json.loads((folder / "head.json").read_text())
    card["weights_sha256"] = hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()
    resealed(folder / "head.json", card)


def test_weights_of_other_shapes_are_all_named(head, tmp_path):
    def change(tensors):
        del tensors["0.std"]
        tensors["0.mean"] = torch.zeros(3)
        tensors["more"] = torch.zeros(1)

    rewrite(head.save(tmp_path), change)
    with pytest.raises(ArtefactError) as caught:
        load_head(tmp_path)
    for said in (
        "0.mean is (3,), wanted is (32,)",
        "0.std is missing, wanted is (32,)",
        "more is (1,), wanted is nothing",
    ):
        assert said in str(caught.value)


def test_every_flipped_byte_of_the_weights_is_found(head, tmp_path):
    path = head.save(tmp_path) / "head.safetensors"
    good = path.read_bytes()
    for at in range(0, len(good), len(good) // 10):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(ArtefactError, match="not the file"):
            load_head(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "format version 1; version 3 is known"),
        ({"format": "other"}, "does not describe a head"),
        ({"members": []}, "no members"),
        ({"task": {"kind": "ranking"}}, "no task 'ranking'"),
        ({"task": {"kind": "classification", "classes": ["a", "b", "c"]}}, "2 outputs for a task of 3"),
        ({"task": 3}, "damaged"),
        ({"architecture": {"name": "abmil"}}, "damaged"),
        ({"config": {"epochs": 0}}, "epochs is 0"),
        ({"losses": None}, "damaged"),
    ],
)
def test_a_changed_head_json_is_refused_with_a_sentence(head, tmp_path, change, said):
    path = head.save(tmp_path) / "head.json"
    card = json.loads(path.read_text())
    of_member = {name: value for name, value in change.items() if name in card["members"][0]}
    card["members"][0] |= of_member
    resealed(path, card | {name: value for name, value in change.items() if name not in of_member})
    with pytest.raises(ArtefactError, match=said):
        load_head(tmp_path)


def test_a_head_json_that_was_edited_is_refused(head, tmp_path):
    """Two classes swapped by hand would swap all answers."""
    path = head.save(tmp_path) / "head.json"
    path.write_text(path.read_text().replace('"normal",', '"norm",'))
    with pytest.raises(ArtefactError, match="head.json was changed after it was written"):
        load_head(tmp_path)


def test_an_unknown_or_absurd_architecture_is_refused(head, tmp_path):
    path = head.save(tmp_path) / "head.json"
    card = json.loads(path.read_text())
    for field, value, said in (("name", "other", "no head called 'other'"), ("in_dim", -1, "in_dim is -1")):
        (member,) = card["members"]
        changed = member | {"architecture": member["architecture"] | {field: value}}
        resealed(path, card | {"members": [changed]})
        with pytest.raises(ArtefactError, match=said):
            load_head(tmp_path)


def test_a_folder_without_a_head_is_said_to_be_one(head, tmp_path):
    with pytest.raises(UsageError, match=r"no head here \(head.json"):
        load_head(tmp_path)
    (head.save(tmp_path) / "head.safetensors").unlink()
    with pytest.raises(UsageError, match=r"no head here \(head.safetensors"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text("{")
    (tmp_path / "head.safetensors").write_bytes(b"")
    with pytest.raises(ArtefactError, match="not JSON"):
        load_head(tmp_path)


def test_saving_where_one_cannot_is_said(head, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be saved"):
        head.save(tmp_path / "file")
