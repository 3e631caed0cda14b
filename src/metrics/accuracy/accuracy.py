"""Accuracy: the share of items whose predicted class is the right one. Higher is better."""

from typing import Any

import evaluate

from src.metrics.inputs import CLASSES


class Accuracy(evaluate.Metric):
    """Share of equal integers, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: class indices",
            features=CLASSES,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        hits = sum(int(given == right) for given, right in zip(predictions, references, strict=True))
        return {"accuracy": hits / len(references)}
