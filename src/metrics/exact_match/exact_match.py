"""Exact match: the share of answers equal to the reference after stripping white space. Higher is better.

What differs from SQuAD's measure of that name: case, articles and punctuation count.
"""

from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS


class ExactMatch(MeanOfItems):
    """Share of equal strings, 0 to 1."""

    name = "exact_match"
    citation = "Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250"
    takes = "predictions, references: texts"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        return (answer.strip() == right.strip() for answer, right in pairs)
