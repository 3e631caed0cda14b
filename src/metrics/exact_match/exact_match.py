"""Exact match: the share of answers equal to the reference after stripping white space. Higher is better."""

from typing import Any

import evaluate

from src.metrics.inputs import TEXTS
from src.metrics.items import mean_of_items


class ExactMatch(evaluate.Metric):
    """Share of equal strings, 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: texts",
            features=TEXTS,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        return mean_of_items("exact_match", (given.strip() == right.strip() for given, right in pairs))
