"""Zero-shot scores on vectors small enough to pool by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heads import Bag, prompt_spread, tile_similarity, zero_shot, zero_shot_pooled, zero_shot_probabilities
from wsi.errors import EncoderMismatch, UsageError

AXES = np.eye(2, dtype=np.float32)  # two classes: a tile's similarity to them is its unit vector


def bag_of(x, cells=None):
    return Bag(x=x, cells=cells, slide_id="s1", encoder_digest="e" * 64)


# Unit vectors times lengths that must not matter. Similarities: (.6, .8), (.8, .6), (0, 1), (1, 0), (-1, 0).
TILES = np.array([[3, 4], [8, 6], [0, 0.1], [70, 0], [-2, 0]], np.float32)


def softmax(s, scale):
    e = np.exp(scale * np.array(s))
    return e / e.sum()


@pytest.mark.parametrize(
    ("k", "s"),
    [
        (1, [1, 1]),  # tile 3 for the one class, tile 2 for the other
        (2, [(1 + 0.8) / 2, (1 + 0.8) / 2]),
        (3, [(1 + 0.8 + 0.6) / 3, (1 + 0.8 + 0.6) / 3]),
        (4, [(1 + 0.8 + 0.6 + 0) / 4, (1 + 0.8 + 0.6 + 0) / 4]),
        (5, [(1 + 0.8 + 0.6 + 0 - 1) / 5, (1 + 0.8 + 0.6 + 0 + 0) / 5]),
        (100, [1.4 / 5, 2.4 / 5]),
    ],
)
def test_each_class_pools_its_own_k_best_tiles(k, s):
    score = zero_shot(bag_of(TILES), AXES, top_k=(k,), logit_scale=math.log(3))[k]
    assert score.detail["similarity"] == pytest.approx(s, abs=1e-7)
    assert (score.detail["k"], score.detail["k_asked"]) == (min(k, 5), k)
    np.testing.assert_allclose(score.values, softmax(s, 3), rtol=1e-6)
    assert score.values.dtype == np.float32
    np.testing.assert_allclose(score.per_tile, [[0.6, 0.8], [0.8, 0.6], [0, 1], [1, 0], [-1, 0]], atol=1e-7)


def test_default_ks_are_reported_capped():
    scores = zero_shot(bag_of(TILES), AXES)
    assert list(scores) == [1, 5, 10, 50, 100]
    assert [s.detail["k"] for s in scores.values()] == [1, 5, 5, 5, 5]
    assert scores[100].detail["logit_scale"] == pytest.approx(math.log(100))


def test_tied_tiles_give_the_same_score_whichever_is_taken():
    assert zero_shot(bag_of([[1, 0], [1, 0], [0, 1]]), AXES, top_k=[2])[2].detail["similarity"] == [1, 0.5]


def test_both_sides_are_normalised():
    plain = zero_shot(bag_of(TILES), AXES)[5]
    scaled = zero_shot(bag_of(TILES * 50), AXES * np.array([[0.01], [900]], np.float32))[5]
    np.testing.assert_allclose(scaled.values, plain.values, rtol=1e-5)


def test_a_tile_of_zeros_is_like_nothing():
    assert tile_similarity(bag_of([[0, 0], [1, 0]]), AXES).tolist() == [[0, 0], [1, 0]]


def test_blocks_of_tiles_are_joined_in_order():
    x = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    expected = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    np.testing.assert_allclose(tile_similarity(bag_of(x), w), expected, atol=1e-6)


def test_mean_and_share_use_every_tile():
    pooled = zero_shot_pooled(bag_of(TILES), AXES, logit_scale=0.0)
    np.testing.assert_allclose(pooled["mean"].values, softmax([1.4 / 5, 2.4 / 5], 1), rtol=1e-6)
    # Tiles 0, 2 and 4 are nearer the second class: -1 is less than 0.
    assert pooled["share"].values.tolist() == pytest.approx([0.4, 0.6])
    assert pooled["share"].detail["tiles"] == [2, 3]


def test_tile_probabilities_are_a_softmax_over_classes():
    p = zero_shot_probabilities(np.array([[0.3, 0.3], [1.0, 0.0]], np.float32), math.log(2))
    np.testing.assert_allclose(p, [[0.5, 0.5], softmax([1, 0], 2)], rtol=1e-6)
    assert zero_shot_probabilities(np.array([[1.0, -1.0]], np.float32)).sum() == pytest.approx(1)


def test_smoothing_averages_a_tile_with_its_neighbours_in_the_bag():
    # Lattice of 3 x 3; tiles at
    #   0 . 2      Cell 4 touches all others; 0 touches 4 only; 2 touches 4 only; 6 and 4 touch each other.
    #   . 4 .
    #   6 . .
    one = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    s = tile_similarity(bag_of(one, cells=[0, 2, 4, 6]), AXES, (3, 3))
    np.testing.assert_allclose(s, [[1, 0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])


def test_smoothing_does_not_wrap_around_the_rows():
    # Cells 2 and 3 follow each other, but end one row and begin the next.
    s = tile_similarity(bag_of(AXES, cells=[2, 3]), AXES, (2, 3))
    np.testing.assert_allclose(s, AXES)


def test_smoothed_scores_say_so_and_pool_what_they_show():
    bag = bag_of(AXES, cells=[0, 1])
    smooth, plain = (zero_shot(bag, AXES, top_k=[1], smooth_over=over)[1] for over in ((1, 2), None))
    assert smooth.detail["similarity"] == [0.5, 0.5] and plain.detail["similarity"] == [1, 1]
    assert smooth.per_tile.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (smooth.detail["smoothed"], plain.detail["smoothed"]) == (True, False)


def test_the_head_digest_follows_classes_and_settings_not_the_slide():
    def head(bag=TILES, w=AXES, k=5, **settings):
        return zero_shot(bag_of(bag), w, top_k=[k], **settings)[k].head_digest

    assert head() == head(bag=TILES[:2])
    others = {head(w=AXES[::-1]), head(k=1), head(logit_scale=1.0), head(smooth_over=(1, 5))}
    assert len(others - {head()}) == 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: zero_shot(bag_of(np.empty((0, 2))), AXES), "no tiles"),
        (lambda: zero_shot(bag_of(TILES), AXES, top_k=()), "top_k"),
        (lambda: zero_shot(bag_of(TILES), AXES, top_k=(0, 1)), "top_k"),
        (lambda: zero_shot(bag_of(TILES), AXES, top_k=(5, 5)), "top_k"),
        (lambda: zero_shot(bag_of(TILES), AXES, top_k=(2.5,)), "top_k"),
        (lambda: zero_shot(bag_of(TILES), AXES, logit_scale=100), r"natural logarithm.*log\(100\)"),
        (lambda: zero_shot(bag_of(TILES), AXES, logit_scale=math.nan), "natural logarithm"),
        (lambda: zero_shot(bag_of(TILES), np.zeros((2, 2))), "not all zeros"),
        (lambda: zero_shot(bag_of(TILES), np.full((2, 2), np.nan)), "finite"),
        (lambda: zero_shot(bag_of(TILES), np.empty((0, 2))), "one vector a class"),
        (lambda: zero_shot(bag_of(TILES), AXES, smooth_over=(2, 2)), "outside a lattice of 2 x 2"),
        (lambda: prompt_spread(bag_of(TILES), [AXES[:, None]], draws=0), "draws"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(UsageError, match=said):
        call()


def test_prompts_of_another_dimension_are_of_another_encoder():
    with pytest.raises(EncoderMismatch, match="2 features a tile, the classes have 3"):
        zero_shot(bag_of(TILES), np.eye(3))


def one_text(vectors):
    """A bank of one name and one template per class."""
    return [v[None, None] for v in np.asarray(vectors, np.float32)]


def test_spread_without_a_choice_of_words_is_the_score_itself():
    spread = prompt_spread(bag_of(TILES), one_text(AXES), draws=7, top_k=3, logit_scale=1.0)
    score = zero_shot(bag_of(TILES), AXES, top_k=[3], logit_scale=1.0)[3]
    for row in (*spread.p, spread.median, spread.lower, spread.upper):
        np.testing.assert_allclose(row, score.values, rtol=1e-6)
    assert spread.p.shape == (7, 2) and spread.k == 3


def test_spread_draws_one_name_a_class_and_some_templates():
    # Two names of the first class, which agree or disagree with the only tile; templates all alike.
    bank = [np.array([[[1, 0]] * 3, [[0, 1]] * 3], np.float32), np.array([[[0.6, 0.8]] * 3], np.float32)]
    spread = prompt_spread(bag_of([[1, 0]]), bank, draws=200, logit_scale=1.0)
    told = {round(float(p), 5) for p in spread.p[:, 0]}
    one, other = softmax([1, 0.6], math.e)[0], softmax([0, 0.6], math.e)[0]
    assert sorted(told) == pytest.approx(sorted([other, one]), abs=1e-5)
    assert 0.35 < spread.wins[0] < 0.65 and spread.wins.sum() == pytest.approx(1)
    assert spread.lower[0] == pytest.approx(other, abs=1e-6) and spread.upper[0] == pytest.approx(one, abs=1e-6)


def test_spread_uses_the_same_templates_for_every_class():
    # Both classes have the same vectors by template, so whatever subset is drawn, neither may win.
    texts = np.random.default_rng(3).normal(size=(1, 6, 4)).astype(np.float32)
    x = np.random.default_rng(4).normal(size=(9, 4))
    spread = prompt_spread(bag_of(x), [texts, texts], draws=20)
    np.testing.assert_allclose(spread.p, 0.5, atol=1e-6)


def test_spread_varies_the_templates():
    texts = np.random.default_rng(3).normal(size=(2, 1, 6, 4)).astype(np.float32)
    spread = prompt_spread(bag_of(np.random.default_rng(4).normal(size=(9, 4))), list(texts), draws=30)
    assert len(np.unique(spread.p[:, 0])) > 10
    assert (spread.lower <= spread.median).all() and (spread.median <= spread.upper).all()


def test_spread_follows_its_seed():
    bank = list(np.random.default_rng(3).normal(size=(2, 3, 6, 2)).astype(np.float32))
    draw = [prompt_spread(bag_of(TILES), bank, seed=s).p for s in (1, 1, 2)]
    assert np.array_equal(draw[0], draw[1]) and not np.array_equal(draw[0], draw[2])
