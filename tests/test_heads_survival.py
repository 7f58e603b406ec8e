"""Survival losses and concordance against lifelines 0.30, published figures of the Rossi data, and hand-worked cases.

The Rossi figures (432 people, 114 arrests, 35 distinct times with ties) agree between lifelines 0.30.3 and
scikit-survival 0.28.0; those for Breslow and Uno come from the latter.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.datasets import load_rossi
from lifelines.utils import concordance_index as lifelines_concordance

from heads import concordance_index, concordance_index_ipcw, cox_loss, discrete_hazard_loss
from wsi.errors import UsageError

COVARIATES = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
GOLDEN = {
    "efron": ([-0.379422, -0.057438, 0.313900, -0.149796, -0.433704, -0.084871, 0.091497], -658.747659, -675.380632),
    "breslow": ([-0.379022, -0.057246, 0.314130, -0.151115, -0.432783, -0.084983, 0.091112], -659.120606, -675.683389),
}


@pytest.fixture(scope="module")
def rossi():
    table = load_rossi()
    return table[COVARIATES].to_numpy(float), table["week"].to_numpy(float), table["arrest"].to_numpy(int)


def log_likelihood(risk, time, event, ties):
    return -float(cox_loss(torch.as_tensor(risk), torch.as_tensor(time), torch.as_tensor(event), ties)) * event.sum()


def linear_cox(x, time, event, ties):
    """Coefficients that minimise `cox_loss`."""
    scale = x.std(axis=0)
    z, t, e = torch.from_numpy((x - x.mean(axis=0)) / scale), torch.from_numpy(time), torch.from_numpy(event)
    beta = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    exact = {"tolerance_grad": 1e-10, "tolerance_change": 1e-14}
    optimiser = torch.optim.LBFGS([beta], max_iter=100, line_search_fn="strong_wolfe", **exact)

    def closure():
        optimiser.zero_grad()
        loss = cox_loss(z @ beta, t, e, ties)
        loss.backward()
        return loss

    optimiser.step(closure)
    return beta.detach().numpy() / scale


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_log_likelihood_of_the_rossi_data(rossi, ties):
    x, time, event = rossi
    beta, fitted, null = GOLDEN[ties]
    assert log_likelihood(x @ np.array(beta), time, event, ties) == pytest.approx(fitted, rel=1e-5)
    assert log_likelihood(np.zeros(len(x)), time, event, ties) == pytest.approx(null, rel=1e-8)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_linear_cox_head_finds_the_rossi_coefficients(rossi, ties):
    np.testing.assert_allclose(linear_cox(*rossi, ties), GOLDEN[ties][0], atol=2e-6)


def test_efron_against_lifelines_where_ties_are_heavy():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 2))
    time, event = rng.integers(1, 6, 60).astype(float), rng.integers(0, 2, 60)
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": time, "event": event})
    fitted = CoxPHFitter().fit(table, "time", "event")
    assert log_likelihood(x @ fitted.params_.to_numpy(), time, event, "efron") == pytest.approx(
        fitted.log_likelihood_, rel=1e-8
    )


def test_efron_of_two_tied_deaths_by_hand():
    # Deaths of risks log 2 and log 3 at time 1, one survivor of risk 0: shares 2/6 and 3/(6 - 5/2).
    risk = torch.tensor([2.0, 3.0, 1.0]).log()
    assert float(cox_loss(risk, [1.0, 1, 2], [1, 1, 0])) == pytest.approx(-(math.log(2 / 6) + math.log(3 / 3.5)) / 2)
    assert float(cox_loss(risk, [1.0, 1, 2], [1, 1, 0], "breslow")) == pytest.approx(-math.log(2 / 6 * 3 / 6) / 2)


def test_both_ways_agree_without_ties_and_order_does_not_matter():
    rng = np.random.default_rng(4)
    risk, time = torch.from_numpy(rng.normal(size=30)), torch.from_numpy(rng.permutation(30) + 1.0)
    event = torch.from_numpy(rng.integers(0, 2, 30))
    order = torch.from_numpy(rng.permutation(30))
    loss = cox_loss(risk, time, event)
    torch.testing.assert_close(cox_loss(risk, time, event, "breslow"), loss)
    torch.testing.assert_close(cox_loss(risk[order], time[order], event[order]), loss)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_gradient_is_that_of_finite_differences_with_ties(ties):
    rng = np.random.default_rng(5)
    risk = torch.from_numpy(rng.normal(size=12)).requires_grad_()
    time, event = torch.from_numpy(rng.integers(1, 4, 12)), torch.from_numpy(rng.integers(0, 2, 12))
    assert torch.autograd.gradcheck(lambda r: cox_loss(r, time, event, ties), risk)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_cox_is_finite_for_risks_of_any_size(size):
    risk = torch.tensor([-size, 0.0, size, size], requires_grad=True)
    loss = cox_loss(risk, [1, 2, 2, 3], [1, 1, 1, 0])
    loss.backward()
    assert loss.isfinite() and risk.grad.isfinite().all()


def test_without_events_cox_is_zero_with_a_zero_gradient():
    risk = torch.ones(3, requires_grad=True)
    loss = cox_loss(risk, [1, 2, 3], [0, 0, 0])
    loss.backward()
    assert loss.item() == 0 and risk.grad.tolist() == [0, 0, 0]


def test_cox_refuses_what_would_be_broadcast_or_misread():
    with pytest.raises(UsageError, match="One number per slide"):
        cox_loss(torch.zeros(3, 1), [1, 2, 3], [1, 0, 1])
    with pytest.raises(UsageError, match="1 where the event was seen"):
        cox_loss(torch.zeros(3), [1, 2, 3], [1, 0, 2])
    with pytest.raises(UsageError, match="'exact'"):
        cox_loss(torch.zeros(3), [1, 2, 3], [1, 0, 1], "exact")


def test_discrete_hazard_by_hand():
    logits = torch.tensor([[0.0, math.log(3), 0.0], [0.0, math.log(3), 0.0]])  # hazards 1/2, 3/4, 1/2
    died, censored = -math.log(1 / 2 * 3 / 4), -math.log(1 / 2 * 1 / 4)
    assert float(discrete_hazard_loss(logits, [1, 1], [1, 0])) == pytest.approx((died + censored) / 2)
    assert float(discrete_hazard_loss(logits, [1, 1], [1, 0], alpha=0.4)) == pytest.approx((died + 0.6 * censored) / 2)
    assert float(discrete_hazard_loss(logits[:1], [0], [1])) == pytest.approx(math.log(2))


def test_discrete_hazard_is_cross_entropy_over_the_bins_lived_through():
    rng = np.random.default_rng(6)
    logits = torch.from_numpy(rng.normal(size=(20, 4)))
    bin, event = torch.from_numpy(rng.integers(0, 4, 20)), torch.from_numpy(rng.integers(0, 2, 20))
    label = torch.nn.functional.one_hot(bin, 4) * event[:, None]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.double(), reduction="none")
    seen = torch.arange(4) <= bin[:, None]
    torch.testing.assert_close(discrete_hazard_loss(logits, bin, event), (entropy * seen).sum() / 20)


def test_discrete_hazard_has_a_gradient_where_hazards_are_certain():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = discrete_hazard_loss(logits, [0, 0], [0, 1])
    loss.backward()
    assert loss.item() == pytest.approx(200) and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("logits", "bin", "event", "alpha"),
    [
        ((2, 3), [0, 3], [1, 0], 0),
        ((2, 3), [0, -1], [1, 0], 0),
        ((2, 3), [0.5, 1.0], [1, 0], 0),
        ((2, 3), [0], [1], 0),
        ((2,), [0, 1], [1, 1], 0),
        ((2, 3), [0, 1], [1, 1], 1.5),
        ((2, 3), [0, 1], [1, 2], 0),
    ],
)
def test_discrete_hazard_refuses(logits, bin, event, alpha):
    with pytest.raises(UsageError):
        discrete_hazard_loss(torch.zeros(logits), bin, event, alpha)


@pytest.mark.parametrize(("ties", "harrell", "uno"), [("efron", 0.640329, 0.639922), ("breslow", 0.640423, 0.640021)])
def test_concordance_of_the_rossi_data(rossi, ties, harrell, uno):
    x, time, event = rossi
    risk = np.round(x @ linear_cox(*rossi, ties), 9)  # equal people get equal risks, whatever the order of summing
    assert concordance_index(time, event, risk) == pytest.approx(harrell, abs=6e-7)
    assert concordance_index_ipcw(time, event, time, event, risk, tau=50) == pytest.approx(uno, abs=6e-7)


def test_concordance_agrees_with_lifelines_under_ties_of_every_kind():
    rng = np.random.default_rng(7)
    for _ in range(50):
        n = rng.integers(5, 40)
        time, risk = rng.integers(1, 8, n), rng.integers(0, 5, n)
        event = rng.integers(0, 2, n)
        event[time.argmin()] = 1
        time[-1] = 9
        assert concordance_index(time, event, risk) == pytest.approx(lifelines_concordance(time, -risk, event))


@pytest.mark.parametrize(
    ("time", "event", "risk", "c"),
    [
        ([1, 2, 3], [1, 1, 1], [3, 2, 1], 1.0),
        ([1, 2, 3], [1, 1, 1], [1, 2, 3], 0.0),
        ([1, 2], [1, 0], [5, 5], 0.5),  # equal risks count half
        ([2, 2], [1, 0], [2, 1], 1.0),  # at one time the event came before the censoring
        ([2, 2, 3], [1, 1, 0], [9, 0, 1], 0.5),  # the two events are not compared: (9, 1) won, (0, 1) lost
        ([1, 2, 3], [0, 1, 0], [0, 2, 1], 1.0),  # the first was censored: no pair of its own
    ],
)
def test_concordance_by_hand(time, event, risk, c):
    assert concordance_index(time, event, risk) == c


def test_uno_weighs_pairs_by_the_training_censoring():
    rng = np.random.default_rng(8)
    train_time, train_event = rng.permutation(40) + 1.0, rng.integers(0, 2, 40)
    time, event, risk = rng.permutation(30) + 1.25, rng.integers(0, 2, 30), rng.integers(0, 6, 30)
    censoring = KaplanMeierFitter().fit(train_time, 1 - train_event)
    won = total = 0.0
    for i, j in np.ndindex(30, 30):
        if event[i] and time[i] < time[j] and time[i] < 20:
            weight = float(censoring.predict(time[i])) ** -2
            total += weight
            won += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    got = concordance_index_ipcw(train_time, train_event, time, event, risk, tau=20)
    assert got == pytest.approx(won / total)
    assert got != pytest.approx(concordance_index(time, event, risk))


def test_uno_lets_the_dying_leave_before_others_are_censored_at_the_same_time():
    # At 1 one of four dies, then one of three is censored: G is 2/3 from there on, not 3/4.
    # Pairs: the first is outlived by two of higher risk (lost, weight 1 each); the second wins over the third (9/4).
    train_time, train_event = [1, 1, 2, 3], [1, 0, 1, 1]
    assert concordance_index_ipcw(train_time, train_event, [0.5, 1.5, 2.9], [1, 1, 0], [1, 3, 2]) == pytest.approx(
        9 / 17
    )


def test_uno_with_nobody_censored_is_harrell():
    rng = np.random.default_rng(9)
    time, risk, ones = rng.permutation(20) + 1, rng.normal(size=20), np.ones(20)
    assert concordance_index_ipcw(time, ones, time, ones, risk) == pytest.approx(concordance_index(time, ones, risk))


def test_uno_says_which_tau_it_needs():
    # All training patients are censored by 5, so an event at 6 is beyond, and one at 5 has no weight.
    with pytest.raises(UsageError, match=r"beyond the last training time 5.*tau of at most 5"):
        concordance_index_ipcw([1, 5], [1, 0], [6, 7], [1, 0], [1, 0])
    with pytest.raises(UsageError, match=r"censored by 5.*tau of at most 5"):
        concordance_index_ipcw([1, 5], [1, 0], [5, 7], [1, 0], [1, 0])
    assert concordance_index_ipcw([1, 5], [1, 0], [2, 6, 7], [1, 1, 0], [2, 1, 0], tau=5) == 1


@pytest.mark.parametrize(
    ("time", "event", "risk", "said"),
    [
        ([1, 2], [0, 0], [1, 2], "No two patients"),
        ([2, 2], [1, 1], [1, 2], "No two patients"),
        ([1, 2, 3], [1, 0], [1, np.nan], "lengths differ.*risk holds NaN"),
        ([1, 2], [1, 7], [1, np.inf], "risk holds NaN or inf.*event holds other values"),
        ([], [], [], "are 0"),
        ([[1], [2]], [1, 0], [1, 2], r"time has shape \(2, 1\)"),
        ([1, 2], ["dead", "alive"], [1, 2], "must be numbers"),
    ],
)
def test_concordance_refuses(time, event, risk, said):
    with pytest.raises(UsageError, match=said):
        concordance_index(time, event, risk)
