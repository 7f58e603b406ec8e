"""Attention MIL against numpy, and what must hold whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heads import AttentionMIL
from wsi.errors import UsageError


def make(gated=True, hidden=8, n_out=3):
    torch.manual_seed(0)
    return AttentionMIL(5, n_out, hidden=hidden, gated=gated).eval()


def tiles(n=7):
    return torch.from_numpy(np.random.default_rng(1).normal(size=(n, 5)).astype(np.float32))


@pytest.mark.parametrize("gated", [True, False])
def test_forward_is_the_formula_of_the_paper(gated):
    mil, x = make(gated), tiles()
    p = {name: t.detach().numpy().astype(np.float64) for name, t in mil.named_parameters()}

    h = np.maximum(x.numpy() @ p["embed.0.weight"].T + p["embed.0.bias"], 0)
    v = np.tanh(h @ p["content.weight"].T + p["content.bias"])
    if gated:
        v *= 1 / (1 + np.exp(-(h @ p["gate.weight"].T + p["gate.bias"])))
    e = np.exp(v @ p["weigh.weight"][0])  # its bias moves all tiles alike
    a = e / e.sum()
    logits = p["classify.weight"] @ (a @ h) + p["classify.bias"]

    got_logits, got_a = mil(x)
    np.testing.assert_allclose(got_a.detach(), a, rtol=1e-5)
    np.testing.assert_allclose(got_logits.detach(), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_the_order_of_tiles_does_not_matter(gated):
    mil, x = make(gated), tiles(50)
    order = torch.from_numpy(np.random.default_rng(2).permutation(50))
    logits, a = mil(x)
    turned, turned_a = mil(x[order])
    torch.testing.assert_close(turned, logits)
    torch.testing.assert_close(turned_a, a[order])


def test_a_tile_given_twice_counts_twice():
    mil, x = make(), tiles(2)
    logits, a = mil(x[[0, 0, 1]])
    assert a[0] == a[1]
    assert not torch.allclose(logits, mil(x)[0])


def test_one_tile_has_all_the_attention():
    logits, a = make()(tiles(1))
    assert a.tolist() == [1.0] and logits.shape == (3,)


def test_attention_sums_to_one_for_many_tiles():
    a = make()(tiles(20_000))[1].detach()
    assert a.shape == (20_000,) and (a >= 0).all()
    assert float(a.sum()) == pytest.approx(1, abs=1e-5)


def test_hidden_is_a_width_or_a_pair():
    assert make(hidden=8).content.weight.shape == (4, 8)
    assert make(hidden=(8, 3)).content.weight.shape == (3, 8)
    assert make(hidden=1).content.weight.shape == (1, 1)


def test_dropout_acts_in_training_only():
    mil, x = make().train(), tiles()
    assert not torch.equal(mil(x)[0], mil(x)[0])
    assert torch.equal(mil.eval()(x)[0], mil(x)[0])


def test_every_weight_gets_a_gradient():
    mil = make()
    mil(tiles())[0].sum().backward()
    silent = [n for n, p in mil.named_parameters() if n != "weigh.bias" and not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("shape", [(0, 5), (4, 6), (5,), (2, 4, 5)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(UsageError, match=r"\(tiles, 5\)"):
        make()(torch.zeros(shape))
