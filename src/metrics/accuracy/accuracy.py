"""Accuracy: the share of items whose predicted class is the right one. Higher is better."""

from typing import Any

import evaluate

from src.metrics.inputs import CLASSES
from src.metrics.items import mean_of_items


class Accuracy(evaluate.Metric):
    """Share of equal integers, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: class indices",
            features=CLASSES,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        return mean_of_items("accuracy", (given == right for given, right in pairs))
