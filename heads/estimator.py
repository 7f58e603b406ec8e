"""Heads in scikit-learn's manner: `fit`, `predict`, `score` over lists of bags.

    MILEstimator(head="clam_sb").fit(bags, labels).score(test_bags, test_labels)

Bags are `heads.Bag`s, or plain (N, D) arrays. It can be cloned and searched over; it makes no claim to pass
`check_estimator`, which has no notion of bags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.utils.validation import check_is_fitted

from heads.bag import Bag, BagLike
from heads.concordance import concordance_index
from heads.config import TrainConfig
from heads.targets import as_pairs
from heads.tasks import Biomarker, Classification, Regression
from heads.trained import TrainedHead
from heads.training import train_head


class MILEstimator(BaseEstimator):
    """A head as an estimator. `settings` are fields of `TrainConfig`, the most used ones are parameters here."""

    head_: TrainedHead

    def __init__(
        self,
        task: str = "classification",
        *,
        head: str = "abmil",
        epochs: int | None = None,
        lr: float | None = None,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.task = task
        self.head = head
        self.epochs = epochs
        self.lr = lr
        self.seed = seed
        self.settings = settings

    def fit(self, bags: Sequence[Any], y: Any, groups: Sequence[str] | None = None) -> MILEstimator:
        """Targets as in `train_head`; `groups` names the patient of each bag."""
        config = TrainConfig(head=self.head, epochs=self.epochs, lr=self.lr, seed=self.seed, **(self.settings or {}))
        self.head_ = train_head(as_bags(bags), y, task=self.task, config=config, groups=groups)
        return self

    @property
    def classes_(self) -> NDArray[Any]:
        """Of a classification, sorted."""
        task = self._task()
        if not isinstance(task, Classification):
            raise AttributeError(f"a head for {task.kind} has no classes")
        return np.array(task.classes)

    def predict_proba(self, bags: Sequence[Any]) -> NDArray[np.float32]:
        """(n, C) probabilities of classes, or (n, k) of biomarkers being positive."""
        if not isinstance(self._task(), Classification | Biomarker):
            raise AttributeError(f"a head for {self._task().kind} gives no probabilities: use predict")
        return self._values(bags)

    def predict(self, bags: Sequence[Any]) -> NDArray[Any]:
        """(n,) classes; (n, k) 0 or 1; (n,) numbers; or (n,) risks, higher = worse."""
        task, values = self._task(), self._values(bags)
        if isinstance(task, Classification):
            return self.classes_[values.argmax(axis=1)]
        return (values >= 0.5).astype(int) if isinstance(task, Biomarker) else values[:, 0]

    def score(self, bags: Sequence[Any], y: Any) -> float:
        """Accuracy; mean AUROC of the biomarkers; R2; or Harrell's concordance. Higher is better."""
        task = self._task()
        if isinstance(task, Classification):
            return float(np.mean(self.predict(bags) == np.asarray(y)))
        if isinstance(task, Biomarker):
            rows, p = task.rows(y).numpy(), self.predict_proba(bags)
            known = ~np.isnan(rows)
            each = [roc_auc_score(rows[k, i], p[k, i]) for i, k in enumerate(known.T)]
            return float(np.mean(each))
        if isinstance(task, Regression):
            return float(r2_score(y, self.predict(bags)))
        time, event = as_pairs(y)[0].T
        return concordance_index(time, event, self.predict(bags))

    def _values(self, bags: Sequence[Any]) -> NDArray[np.float32]:
        return np.stack([self.head_.score(bag).values for bag in as_bags(bags)])

    def _task(self) -> Any:
        check_is_fitted(self, "head_")
        return self.head_.card.task


def as_bags(bags: Sequence[Any]) -> list[BagLike]:
    """Bags as they are; arrays (N, D) as bags without a name."""
    return [_bag(bag, i) for i, bag in enumerate(bags)]


def _bag(bag: Any, i: int) -> BagLike:
    if isinstance(bag, np.ndarray | list):
        x = np.asarray(bag, dtype=np.float32)
        return Bag(x=x, cells=np.arange(len(x)), slide_id=str(i), encoder_digest="array")
    return bag
