"""Simulated follow-up: how the true risk follows from what is on the slide, and the times that follow from the risk."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .recipe import ADENO, LYMPH, NECROSIS, SQUAMOUS, SlideRecipe, stream

_SHAPE = 1.5  # of the Weibull distribution: the hazard rises slowly
_SCALE_MONTHS = 46.0  # at risk 0
_STUDY_MONTHS = (24.0, 110.0)  # patients enter over years, the study ends for all on one day


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a patient."""

    months: float  # to the event, or to the last contact
    event: bool  # False: censored
    true_risk: float  # logarithm of the hazard ratio; higher = earlier event


def true_risk(plan: SlideRecipe) -> float:
    """Log hazard ratio of a slide from its planned shares: tumour and necrosis raise it, lymphocytes lower it."""
    shares = plan.shares
    tumour = shares[ADENO] + shares[SQUAMOUS]
    if tumour == 0:
        return -1.2 - 2.0 * (shares[LYMPH] - 0.1)
    grade = 0.35 if shares[SQUAMOUS] > 0 else 0.0
    return grade + 3.0 * (tumour - 0.35) + 5.0 * (shares[NECROSIS] - 0.08) - 5.0 * (shares[LYMPH] - 0.12)


def follow_up(plan: SlideRecipe) -> Outcome:
    """Months and event of a slide's patient, from the seed alone; no pixels are needed.

    Times are Weibull with proportional hazards (Bender, Augustin & Blettner 2005), censored by the end of the study.
    """
    rng = stream(plan.seed, "follow-up")
    risk = true_risk(plan)
    time = _SCALE_MONTHS * (-math.log(1 - rng.random()) * math.exp(-risk)) ** (1 / _SHAPE)
    end = rng.uniform(*_STUDY_MONTHS)
    return Outcome(round(max(0.1, min(time, end)), 1), bool(time <= end), round(risk, 4))
