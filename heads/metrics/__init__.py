"""Metrics: what is reported of predictions, with intervals over patients. Arrays in, plain floats out; no files.

    intervals = bootstrap(lambda rows: classification_metrics(y[rows], p[rows]), patients)

scikit-learn and lifelines take seconds to import; each is imported when something is asked for that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heads.metrics.bootstrap import Difference, Interval, bootstrap, paired_bootstrap
from heads.metrics.curves import HazardRatio, KMCurve, LogRank, hazard_ratio, kaplan_meier, logrank, risk_groups
from heads.metrics.survival import (
    BaselineHazard,
    breslow_baseline,
    brier_score,
    cumulative_dynamic_auc,
    integrated_brier_score,
    survival_metrics,
    usual_tau,
)

if TYPE_CHECKING:
    from heads.metrics.calibration import (
        CalibrationLine,
        calibration_line,
        expected_calibration_error,
        fit_temperature,
        fit_temperature_binary,
        reliability_curve,
    )
    from heads.metrics.classification import (
        biomarker_metrics,
        classification_metrics,
        per_class_auroc,
        regression_metrics,
        youden_threshold,
    )

__all__ = [
    "BaselineHazard",
    "CalibrationLine",
    "Difference",
    "HazardRatio",
    "Interval",
    "KMCurve",
    "LogRank",
    "biomarker_metrics",
    "bootstrap",
    "breslow_baseline",
    "brier_score",
    "calibration_line",
    "classification_metrics",
    "cumulative_dynamic_auc",
    "expected_calibration_error",
    "fit_temperature",
    "fit_temperature_binary",
    "hazard_ratio",
    "integrated_brier_score",
    "kaplan_meier",
    "logrank",
    "paired_bootstrap",
    "per_class_auroc",
    "regression_metrics",
    "reliability_curve",
    "risk_groups",
    "survival_metrics",
    "usual_tau",
    "youden_threshold",
]

_CLASSIFICATION = {
    "biomarker_metrics",
    "classification_metrics",
    "per_class_auroc",
    "regression_metrics",
    "youden_threshold",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'heads.metrics' has no attribute {name!r}")
    room = "classification" if name in _CLASSIFICATION else "calibration"
    return getattr(importlib.import_module(f"heads.metrics.{room}"), name)
