"""Accuracy: the share of items whose predicted class is the right one. Higher is better."""

from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import CLASSES


class Accuracy(MeanOfItems):
    """Share of equal integers, 0 to 1."""

    name = "accuracy"
    citation = "Wang et al. 2019, https://arxiv.org/abs/1804.07461 (GLUE)"
    takes = "predictions, references: class indices"
    features = CLASSES

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        return (answer == right for answer, right in pairs)
