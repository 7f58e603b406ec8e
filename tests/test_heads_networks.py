"""Every network: what all of them promise, and each against its paper's formula worked out in numpy or by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from heads import TrainConfig, available_heads
from heads.networks import attention, base, clam, transmil
from heads.networks.base import MILNetwork
from heads.networks.registry import Architecture, Recipe, head_kind
from heads.networks.transmil import NystromAttention, PositionMix
from heads.optimise import Steps
from wsi.errors import UsageError

NAMES = [name for name, _, _ in available_heads()]
POOLED = ("abmil", "abmil_plain", "clam_sb", "clam_mb")  # by heads.networks.attention
DIM, OUT = 6, 3
SIZES = [1, 2, 3, 5, 16, 23]  # one tile, squares and others


def make(name, *, n_out=OUT, in_dim=DIM, hidden=16, dropout=0.25, seed=0):
    torch.manual_seed(seed)
    return Architecture(name, in_dim, n_out, hidden, 4, dropout).build().eval()


def tiles(n, dim=DIM, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32))


def numbers(module):
    """Weights by name, in float64."""
    return {name: p.detach().numpy().astype(np.float64) for name, p in module.named_parameters()}


def softmax(x, axis=0):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


# What all promise


def test_our_own_are_all_there():
    ours = {"abmil", "abmil_plain", "clam_sb", "clam_mb", "dsmil", "transmil", "mean", "max"}
    assert ours <= set(NAMES)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_out", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_attention_and_evidence_have_their_shapes(name, n_out, n):
    mil, x = make(name, n_out=n_out), tiles(n)
    with torch.no_grad():
        outputs, a = mil(x)
        evidence = mil.evidence(x)
    assert outputs.shape == (n_out,) and outputs.isfinite().all()
    assert a.shape in ((n,), (n, n_out)) and (a >= 0).all()
    np.testing.assert_allclose(a.sum(0), np.ones(a.shape[1:]), atol=1e-6)
    assert evidence is None or (evidence.shape == (n, n_out) and evidence.isfinite().all())


@pytest.mark.parametrize("n", [2, 7, 50])
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_tiles_matters_where_it_is_said_to(name, n):
    mil, x = make(name), tiles(n)
    order = torch.from_numpy(np.random.default_rng(2).permutation(n)) if n > 2 else torch.tensor([1, 0])
    with torch.no_grad():
        outputs, a = mil(x)
        turned, turned_a = mil(x[order])
    if mil.ordered:
        assert (turned - outputs).abs().max() > 1e-4
    else:
        torch.testing.assert_close(turned, outputs)
        torch.testing.assert_close(turned_a, a[order])


def test_transmil_alone_minds_the_order():
    assert [name for name in NAMES if make(name).ordered] == ["transmil"]


def step_loss(mil, found, labels):
    """What a training step of classification goes down, as the loss's share is described in `MILNetwork`."""
    loss, share = cross_entropy(found.outputs, labels), mil.bag_share
    if found.also is not None:
        return share * loss + (1 - share) * cross_entropy(found.also, labels)
    return loss if found.own is None else share * loss + (1 - share) * found.own


def learn(mil, x, lengths, labels):
    """Loss of one step, and the gradients it leaves."""
    mil.zero_grad()
    found = mil.fit(x, lengths, labels)
    loss = step_loss(mil, found, labels)
    loss.backward()
    return loss.detach(), found.outputs.detach(), {name: p.grad.clone() for name, p in mil.named_parameters()}


LENGTHS = [1, 2, 5, 11]
LABELS = torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("name", NAMES)
def test_bags_in_one_go_are_the_bags_one_by_one(name, labels):
    mil, x = make(name), tiles(sum(LENGTHS))
    with torch.no_grad():
        found = mil.fit(x, LENGTHS, labels)
        alone = torch.stack([mil(bag)[0] for bag in x.split(LENGTHS)])
    assert found.outputs.shape == (4, OUT)
    both = found.outputs if found.also is None else (found.outputs + found.also) / 2  # two streams are judged, then one
    torch.testing.assert_close(both, alone)
    assert found.also is None or found.also.shape == (4, OUT)
    assert found.own is None or (found.own.shape == () and labels is not None)


def parts_of(monkeypatch, length):
    """Split bags at `length` tiles; gives the lengths of the parts that then go through the layers."""
    seen, whole = [], attention.AttentionNetwork._tiles

    def watched(self, x):
        seen.append(len(x))
        return whole(self, x)

    for module in (attention, clam):
        monkeypatch.setattr(module, "PART", length)
    monkeypatch.setattr(attention.AttentionNetwork, "_tiles", watched)
    return seen


@pytest.mark.parametrize("name", POOLED)
def test_a_split_bag_gives_the_outputs_and_gradients_of_the_whole(name, monkeypatch):
    mil, x = make(name).double(), tiles(sum(LENGTHS)).double()
    with torch.no_grad():
        forward = [mil(bag) for bag in x.split(LENGTHS)]
    loss, outputs, gradients = learn(mil, x, LENGTHS, LABELS)

    seen = parts_of(monkeypatch, 3)
    with torch.no_grad():
        torch.testing.assert_close([mil(bag) for bag in x.split(LENGTHS)], forward)
    split_loss, split_outputs, split_gradients = learn(mil, x, LENGTHS, LABELS)
    assert max(seen) == 3
    torch.testing.assert_close(split_outputs, outputs)
    torch.testing.assert_close(split_loss, loss)
    torch.testing.assert_close(split_gradients, gradients)


@pytest.mark.parametrize("name", POOLED)
def test_dropout_of_a_split_bag_is_the_same_when_it_is_computed_again(name, monkeypatch):
    mil, x = make(name, dropout=0.5).train(), tiles(20)
    parts_of(monkeypatch, 6)
    torch.manual_seed(3)
    again = learn(mil, x, [20], LABELS[:1])
    monkeypatch.setattr(attention, "again", lambda function, part: function(part))
    torch.manual_seed(3)
    torch.testing.assert_close(learn(mil, x, [20], LABELS[:1]), again)


def kept_for_the_way_back(mil, x, lengths, labels):
    """Numbers that a training step keeps until its gradients are taken."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        mil.fit(x, lengths, labels)
    return sum(kept)


@pytest.mark.parametrize("name", POOLED)
def test_a_long_bag_in_training_keeps_next_to_none_of_its_activations(name, monkeypatch):
    mil, bag = make(name, hidden=64).train(), (tiles(4000), [4000], LABELS[:1])
    whole = kept_for_the_way_back(mil, *bag)
    parts_of(monkeypatch, 100)
    assert kept_for_the_way_back(mil, *bag) < whole / 10


@pytest.mark.parametrize("name", ["dsmil", "transmil", *POOLED])
def test_many_bags_in_a_step_keep_the_activations_of_one_and_learn_the_same(name, monkeypatch):
    mil, step = make(name, hidden=64, dropout=0.5).train(), (tiles(2000), [500] * 4, LABELS)
    parts_of(monkeypatch, 500)
    torch.manual_seed(3)
    kept, learnt = kept_for_the_way_back(mil, *step), learn(mil, *step)
    monkeypatch.setattr(base, "KEPT", 1999)
    torch.manual_seed(3)
    assert kept_for_the_way_back(mil, *step) < kept / 3
    torch.testing.assert_close(learn(mil, *step), learnt)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_a_gradient_from_a_step(name):
    mil = make(name)
    _, _, gradients = learn(mil, tiles(40), [1, 20, 10, 9], LABELS)
    # A number added to every tile's score changes no attention, so w's bias has a gradient of 0.
    silent = [n for n, g in gradients.items() if n != "weigh.bias" and not (g.isfinite().all() and g.abs().sum() > 0)]
    assert silent == []


@pytest.mark.parametrize("name", ["mean", "max", *POOLED])
def test_attention_times_evidence_sums_to_the_outputs(name):
    mil, x = make(name), tiles(30)
    with torch.no_grad():
        outputs, a = mil(x)
        parts = a.reshape(30, -1) * mil.evidence(x)
    assert outputs.std() > 1e-2
    torch.testing.assert_close(parts.sum(0), outputs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(0, DIM), (4, DIM + 1), (DIM,), (2, 4, DIM)])
@pytest.mark.parametrize("name", NAMES)
def test_other_shapes_are_refused(name, shape):
    with pytest.raises(UsageError, match=rf"takes \(tiles, {DIM}\) with at least one tile, not"):
        make(name)(torch.zeros(shape))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_only(name):
    mil, x = make(name, dropout=0.5), tiles(30)
    with torch.no_grad():
        assert torch.equal(mil(x)[0], mil(x)[0])
        varies = not torch.equal(mil.train()(x)[0], mil(x)[0])
    assert varies == (name not in ("mean", "max"))


def test_a_network_of_no_name_and_a_base_without_a_forward_pass_are_refused():
    with pytest.raises(UsageError, match="no head called 'resnet'"):
        Architecture("resnet", 1, 1, 1, 1, 0).build()
    with pytest.raises(UsageError, match="in_dim is 0.*hidden is 1.5"):
        Architecture("abmil", 0, 1, 1.5, 1, 0)
    with pytest.raises(UsageError, match="has no forward pass"):
        MILNetwork(2, 1)(tiles(1, 2))


# The baselines


def test_mean_and_maximum():
    x = tiles(9)
    for name in ("mean", "max"):
        mil = make(name)
        p = numbers(mil)
        each = np.array([[p["classify.weight"][c] @ t + p["classify.bias"][c] for c in range(OUT)] for t in x.numpy()])
        outputs, a = mil(x)
        expected = each.mean(axis=0) if name == "mean" else each.max(axis=0)
        np.testing.assert_allclose(outputs.detach(), expected, rtol=1e-5, atol=1e-6)
        weights = np.full(9, 1 / 9) if name == "mean" else (each == each.max(axis=0)).astype(float)
        np.testing.assert_allclose(a, weights, rtol=1e-6)


# CLAM


def clam_by_hand(p, x, *, multi):
    """Outputs and attention (N, K): h to tanh(V h) sigmoid(U h), to scores, to a mean for each branch."""
    h = np.maximum(x @ p["embed.0.weight"].T + p["embed.0.bias"], 0)
    gate = 1 / (1 + np.exp(-(h @ p["gate.weight"].T + p["gate.bias"])))
    scores = (np.tanh(h @ p["content.weight"].T + p["content.bias"]) * gate) @ p["weigh.weight"].T + p["weigh.bias"]
    a = softmax(scores)
    z = [sum(a[i, c if multi else 0] * h[i] for i in range(len(x))) for c in range(OUT)]
    return np.array([p["classify.weight"][c] @ z[c] + p["classify.bias"][c] for c in range(OUT)]), a, h


@pytest.mark.parametrize("multi", [False, True])
def test_clam_is_the_formula_of_the_paper(multi):
    mil, x = make("clam_mb" if multi else "clam_sb"), tiles(9)
    outputs, a, _ = clam_by_hand(numbers(mil), x.numpy().astype(np.float64), multi=multi)
    got, got_a = mil(x)
    np.testing.assert_allclose(got.detach(), outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got_a.detach(), a if multi else a[:, 0], rtol=1e-5)


def one_wide_clam(*, multi, ranks):
    """A tile is one number h >= 0. Branch k ranks by h where `ranks[k]` is 1, by -h where it is -1; the classifier of
    instances of every class says yes with odds of 2 to the power of h."""
    mil = clam.CLAM(1, 3, widths=(1, 1), dropout=0, multi=multi).double()
    with torch.no_grad():
        for p in mil.parameters():
            p.zero_()
        mil.embed[0].weight.fill_(1)
        mil.content.weight.fill_(1)
        mil.weigh.weight.copy_(torch.tensor(ranks)[:, None])
        for classifier in mil.instances:
            classifier.weight[1] = math.log(2)
    return mil


def own_loss(mil, bag, *labels):
    """The network's own loss of one bag, given once with each of the labels."""
    with torch.no_grad():
        return float(mil.fit(bag.repeat(len(labels), 1), [len(bag)] * len(labels), torch.tensor(labels)).own)


def test_clams_instance_loss_worked_out_by_hand():
    bag = torch.tensor([[3.0], [1.0], [4.0], [2.0]], dtype=torch.float64)  # two tiles at each end
    ln = math.log
    # Yes has probability 2^h / (1 + 2^h), so yes costs ln(1 + 2^-h) and no costs ln(1 + 2^h).
    yes, no = {h: ln(1 + 2.0**-h) for h in (1, 2, 3, 4)}, {h: ln(1 + 2.0**h) for h in (1, 2, 3, 4)}
    own = (yes[4] + yes[3] + no[1] + no[2]) / 4
    top, bottom = (no[4] + no[3]) / 2, (no[1] + no[2]) / 2

    single = one_wide_clam(multi=False, ranks=[1.0])
    assert own_loss(single, bag, 0) == pytest.approx((own + top + top) / 3, rel=1e-12)

    several = one_wide_clam(multi=True, ranks=[1.0, -1.0, 1.0])
    assert own_loss(several, bag, 0) == pytest.approx((own + bottom + top) / 3, rel=1e-12)
    turned = (yes[1] + yes[2] + no[4] + no[3]) / 4
    assert own_loss(several, bag, 1) == pytest.approx((top + turned + top) / 3, rel=1e-12)
    assert own_loss(several, bag, 0, 1) == pytest.approx((own + bottom + top + top + turned + top) / 6, rel=1e-12)


@pytest.mark.parametrize(("n", "ends"), [(1, 0), (2, 1), (3, 1), (15, 7), (16, 8), (17, 8), (60, 8)])
def test_clam_takes_eight_tiles_at_each_end_and_none_twice(n, ends):
    bag = torch.arange(n, dtype=torch.float64)[:, None] / 20
    h = np.arange(n) / 20
    low, high = h[:ends], h[n - ends :]
    yes, no = np.log1p(2.0**-high), np.log1p(2.0**low)
    expected = (np.r_[yes, no].mean() + 2 * np.log1p(2.0**high).mean()) / 3 if ends else 0
    assert own_loss(one_wide_clam(multi=False, ranks=[1.0]), bag, 2) == pytest.approx(expected, rel=1e-12)


def test_clam_minds_three_tenths_of_it_and_only_where_there_are_classes():
    mil = make("clam_sb")
    assert mil.bag_share == 0.7
    assert mil.fit(tiles(9), [9], None).own is None and mil.fit(tiles(9), [9], None).also is None


# DSMIL


def test_dsmil_is_the_formula_of_the_paper():
    mil, x = make("dsmil"), tiles(9)
    p, t = numbers(mil), x.numpy().astype(np.float64)
    scores = t @ p["score.weight"].T + p["score.bias"]  # (N, C)
    q = np.maximum(t @ p["query.0.weight"].T + p["query.0.bias"], 0)
    q = np.tanh(q @ p["query.2.weight"].T + p["query.2.bias"])
    critical = [int(np.argmax(scores[:, c])) for c in range(OUT)]
    a = np.stack([softmax(np.array([q_i @ q[m] for q_i in q]) / np.sqrt(4)) for m in critical], axis=1)
    b = np.stack([sum(a[i, c] * t[i] for i in range(9)) for c in range(OUT)])  # (C, D)
    bag = [np.sum(p["classify.weight"][k] * b) + p["classify.bias"][k] for k in range(OUT)]
    assert len(set(critical)) > 1

    outputs, got_a = mil(x)
    found = mil.fit(x, [9], None)
    np.testing.assert_allclose(found.outputs.detach()[0], bag, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs.detach(), (np.array(bag) + scores.max(axis=0)) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got_a.detach(), a, rtol=1e-5)
    np.testing.assert_allclose(found.also.detach()[0], scores.max(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mil.evidence(x).detach(), scores, rtol=1e-5, atol=1e-6)
    assert mil.bag_share == 0.5 and found.own is None


# TransMIL


def landmarks_by_hand(x, marks):
    """Means of `marks` runs of tokens, which differ in length by one at most."""
    borders = [i * len(x) // marks for i in range(marks + 1)]
    return np.stack([x[a:b].mean(axis=0) for a, b in pairwise(borders)])


def pseudo_inverse_by_hand(of_heads, steps):
    """Xiong 2021, eq. 11 and 12, one start value for all heads."""
    rows = max(np.abs(a).sum(axis=1).max() for a in of_heads)
    columns = max(np.abs(a).sum(axis=0).max() for a in of_heads)
    found = []
    for a in of_heads:
        z, eye = a.T / (rows * columns), np.eye(len(a))
        for _ in range(steps):
            z = z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z))) / 4
        found.append(z)
    return found


def residual_by_hand(weight, v):
    """Every dimension of a head's values (T, d) along the tokens, each with 16 to either side, zeros outside."""
    tokens, reach = len(v), 16
    padded = np.vstack([np.zeros((reach, v.shape[1])), v, np.zeros((reach, v.shape[1]))])
    return np.stack([sum(weight[j] * padded[t + j] for j in range(2 * reach + 1)) for t in range(tokens)])


def nystrom_by_hand(p, x, marks, *, exact=False):
    """Tokens (T, E) after attention through landmarks, or after all of softmax(Q K'); and the first token's row."""
    width = x.shape[1] // 8
    q, k, v = np.split(x @ p["qkv.weight"].T, 3, axis=1)
    heads = [slice(h * width, (h + 1) * width) for h in range(8)]
    q = q / math.sqrt(width)
    if exact:
        attended = [softmax(q[:, h] @ k[:, h].T, axis=1) for h in heads]
    else:
        q_mark, k_mark = landmarks_by_hand(q, marks), landmarks_by_hand(k, marks)
        middle = pseudo_inverse_by_hand([softmax(q_mark[:, h] @ k_mark[:, h].T, axis=1) for h in heads], 6)
        attended = [
            softmax(q[:, h] @ k_mark[:, h].T, axis=1) @ m @ softmax(q_mark[:, h] @ k[:, h].T, axis=1)
            for h, m in zip(heads, middle, strict=True)
        ]
    mixed = [
        a @ v[:, h] + residual_by_hand(p["residual.weight"][i, 0, :, 0], v[:, h])
        for i, (a, h) in enumerate(zip(attended, heads, strict=True))
    ]
    return np.hstack(mixed) @ p["out.0.weight"].T + p["out.0.bias"], np.mean([a[0] for a in attended], axis=0)


def nystrom(dim=64, seed=0):
    torch.manual_seed(seed)
    return NystromAttention(dim, 0.1).double().eval()


@pytest.mark.parametrize(("tokens", "marks"), [(5, 8), (7, 3), (12, 4), (40, 7)])
def test_nystrom_attention_is_the_formula_of_the_paper(tokens, marks, monkeypatch):
    monkeypatch.setattr(transmil, "LANDMARKS", marks)
    layer, x = nystrom(), 3 * tiles(tokens, 64).double()
    got, seen = layer(x)
    expected, row = nystrom_by_hand(numbers(layer), x.numpy(), min(marks, tokens))
    np.testing.assert_allclose(got.detach(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(seen.detach(), row, rtol=1e-9, atol=1e-12)


def test_where_every_token_is_a_landmark_it_is_softmax_attention_and_a_convolution():
    tokens, layer = 8, nystrom()
    x = torch.eye(tokens, dtype=torch.float64).repeat(1, 8)  # in every head of width 8, tokens stand at right angles
    x = x * torch.linspace(3, 5, 64, dtype=torch.float64) + 0.1 * tiles(tokens, 64).double()
    with torch.no_grad():
        layer.qkv.weight[:128] = torch.eye(64).repeat(2, 1)  # queries and keys are the tokens; values are random
    exact, row = nystrom_by_hand(numbers(layer), x.numpy(), tokens, exact=True)
    assert 0.3 < row[0] < 0.99, "not so sharp that all attention is a token's own"
    got, seen = layer(x)
    np.testing.assert_allclose(got.detach(), exact, atol=1e-9)
    np.testing.assert_allclose(seen.detach(), row, atol=1e-9)
    assert (got - layer.out(torch.zeros(64, dtype=torch.float64))).abs().max() > 0.1


def test_the_pseudo_inverse_is_one_where_it_has_converged():
    a = torch.from_numpy(np.random.default_rng(3).dirichlet(np.ones(6), size=(4, 6)) / 2) + torch.eye(6) / 2
    np.testing.assert_allclose(transmil._pseudo_inverse(a), np.linalg.pinv(a), atol=1e-6)


def test_position_mixing_on_a_square_of_two_by_hand():
    mix = PositionMix(1)
    x = torch.tensor([[9.0], [1.0], [2.0], [3.0], [4.0]])  # class token, then 1 2 / 3 4
    with torch.no_grad():
        seven, five, three = mix.convolutions
        for convolution, bias in ((seven, 100.0), (five, 200.0), (three, 300.0)):
            convolution.weight.zero_()
            convolution.bias.fill_(bias)
        seven.weight[0, 0, 3, 3] = 10  # the token itself
        five.weight[0, 0, 2, 3] = 1000  # its right neighbour
        three.weight[0, 0] = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
        got = mix(x, 2)[:, 0]
    three_by_hand = [
        0.5 * 1 + 0.6 * 2 + 0.8 * 3 + 0.9 * 4,
        0.4 * 1 + 0.5 * 2 + 0.7 * 3 + 0.8 * 4,
        0.2 * 1 + 0.3 * 2 + 0.5 * 3 + 0.6 * 4,
        0.1 * 1 + 0.2 * 2 + 0.4 * 3 + 0.5 * 4,
    ]
    right = [2000, 0, 4000, 0]
    expected = [600 + 11 * t + r + c for t, r, c in zip((1, 2, 3, 4), right, three_by_hand, strict=True)]
    np.testing.assert_allclose(got, [9, *expected], rtol=1e-6)


def layer_norm(x, p, name):
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    return x * p[f"{name}.weight"] + p[f"{name}.bias"]


def convolved(square, weight, bias):
    """Every channel of (side, side, E) by its own square filter, zeros outside."""
    side, reach = len(square), weight.shape[-1] // 2
    padded = np.pad(square, ((reach, reach), (reach, reach), (0, 0)))
    window = weight[:, 0].transpose(1, 2, 0)  # (k, k, E)
    k = 2 * reach + 1
    return bias + np.array(
        [[(padded[i : i + k, j : j + k] * window).sum((0, 1)) for j in range(side)] for i in range(side)]
    )


def test_transmil_as_a_whole_with_its_first_tiles_again():
    mil = make("transmil").double()
    x = tiles(5).double()
    p = numbers(mil)
    part = {
        i: {n.removeprefix(f"layers.{i}."): w for n, w in p.items() if n.startswith(f"layers.{i}.")} for i in (0, 1)
    }
    h = np.maximum(x.numpy() @ p["embed.0.weight"].T + p["embed.0.bias"], 0)
    h = np.vstack([p["token"], h, h[:4]])  # 5 tiles on a square of 9
    h = h + nystrom_by_hand(part[0], layer_norm(h, p, "norms.0"), 10)[0]
    square = h[1:].reshape(3, 3, 16)
    filters = [(p[f"positions.convolutions.{i}.weight"], p[f"positions.convolutions.{i}.bias"]) for i in range(3)]
    h = np.vstack([h[:1], (square + sum(convolved(square, w, b) for w, b in filters)).reshape(9, 16)])
    change, seen = nystrom_by_hand(part[1], layer_norm(h, p, "norms.1"), 10)
    logits = layer_norm(h + change, p, "norms.2")[0] @ p["classify.weight"].T + p["classify.bias"]
    shares = seen[1:6] + np.r_[seen[6:], 0]

    outputs, a = mil(x)
    np.testing.assert_allclose(outputs.detach(), logits, rtol=1e-9)
    np.testing.assert_allclose(a.detach(), shares / shares.sum(), rtol=1e-9)


def test_tiles_that_fill_the_square_up_take_part_as_if_given():
    mil, x = make("transmil"), tiles(7)
    outputs, a = mil(x)
    filled, filled_a = mil(torch.cat([x, x[:2]]))
    torch.testing.assert_close(filled, outputs)
    torch.testing.assert_close(torch.cat([filled_a[:2] + filled_a[7:], filled_a[2:7]]), a)


def test_shares_below_nothing_are_nothing():
    seen = torch.tensor([0.5, -0.25, 0.5, 0.25, -0.5])  # four tiles' and the first one's again
    assert transmil._shares(seen[:4], 4).tolist() == pytest.approx([0.4, 0, 0.4, 0.2])
    assert transmil._shares(seen, 4).tolist() == pytest.approx([0, 0, 2 / 3, 1 / 3])


@pytest.mark.parametrize("hidden", [7, 12, 100])
def test_transmil_says_that_its_width_is_shared_by_eight_heads(hidden):
    with pytest.raises(UsageError, match=rf"hidden is {hidden}.*multiple of 8"):
        make("transmil", hidden=hidden)


# The settings of the papers, and the optimisers they name


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("abmil", "abmil_plain"), (512, 128, 0.25, "adam", 5e-4, 1e-4, (0.9, 0.999))),
        (("clam_sb", "clam_mb"), (512, 256, 0.25, "adam", 1e-4, 1e-5, (0.9, 0.999))),
        (("dsmil",), (None, 128, 0.0, "adam", 2e-4, 5e-3, (0.5, 0.9))),
        (("transmil",), (512, None, 0.1, "lookahead-radam", 2e-4, 1e-5, (0.9, 0.999))),
    ],
)
def test_recipes_are_those_of_the_papers_but_for_the_epochs(names, settings):
    for r in (head_kind(name).recipe for name in names):
        assert (r.hidden, r.attention, r.dropout, r.optimiser, r.lr, r.weight_decay, r.betas) == settings


def stepped(optimiser, gradients, *, lr=0.1, weight_decay=0.0):
    """A weight that starts at 1, after each step whose loss has the given slope."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    recipe = Recipe(lr, weight_decay, optimiser=optimiser)
    config = TrainConfig(lr=lr, weight_decay=weight_decay)
    steps, path = Steps([weight], config, recipe, len(gradients)), []
    for slope in gradients:
        steps.take((slope * weight).sum())
        path.append(float(weight.detach()))
    return path


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_steps_fall_to_nothing_along_half_a_cosine(optimiser):
    # Of a slope that stays the same, Adam takes a step of exactly lr.
    path = np.array([1.0, *stepped(optimiser, [2.0] * 8)])
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    np.testing.assert_allclose(-np.diff(path), expected, rtol=1e-6)


def test_weight_decay_is_in_the_slope_for_adam_and_beside_it_for_the_others():
    # With no slope of its own, Adam's step along the decay is lr whatever its size; the others shrink by lr * decay.
    assert stepped("adam", [0.0], weight_decay=1e-3) == pytest.approx([0.9], rel=1e-4)
    assert stepped("adamw", [0.0], weight_decay=1e-3) == pytest.approx([1 - 1e-4], rel=1e-9)
    shrunk = np.cumprod(1 - 1e-3 * 0.1 * (1 + np.cos(np.pi * np.arange(9) / 9)) / 2)
    shrunk[4:] *= (1 + shrunk[4]) / 2 / shrunk[4]  # the step half the way back
    assert stepped("lookahead-radam", [0.0] * 9, weight_decay=1e-3) == pytest.approx(shrunk.tolist(), rel=1e-9)


def test_lookahead_goes_half_the_way_back_every_fifth_step():
    slopes = np.random.default_rng(4).normal(size=12).tolist()
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    fast = torch.optim.RAdam([weight], lr=0.1)
    slow, expected = 1.0, []
    for i, slope in enumerate(slopes):
        fast.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * i / 12)) / 2
        weight.grad = torch.tensor([slope], dtype=torch.float64)
        fast.step()
        if i % 5 == 4:
            slow += (float(weight.detach()) - slow) / 2
            weight.data.fill_(slow)
        expected.append(float(weight.detach()))
    assert stepped("lookahead-radam", slopes) == pytest.approx(expected, rel=1e-9)


def test_an_optimiser_of_no_name_is_refused():
    with pytest.raises(UsageError, match="no optimiser 'sgd'"):
        stepped("sgd", [0.0])
