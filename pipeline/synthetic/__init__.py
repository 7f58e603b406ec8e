"""A synthetic cohort of H&E slides with known regions, diagnoses and survival: for demos, tests and benchmarks."""

from .cohort import CohortRow, CohortSpec, Scan, write_cohort
from .draw import DrawnSlide, draw
from .recipe import DIAGNOSES, REGIONS, SlideRecipe, StainRecipe, recipe
from .survival import Outcome, follow_up, true_risk

__all__ = [
    "DIAGNOSES",
    "REGIONS",
    "CohortRow",
    "CohortSpec",
    "DrawnSlide",
    "Outcome",
    "Scan",
    "SlideRecipe",
    "StainRecipe",
    "draw",
    "follow_up",
    "recipe",
    "true_risk",
    "write_cohort",
]
