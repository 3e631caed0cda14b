"""Spearman's correlation of predicted and true ranks, -1 to 1, as GLUE reports STS-B. Higher is better.

Follows GLUE's evaluator as Hugging Face carries it (huggingface/evaluate, metrics/glue/glue.py,
`pearson_and_spearman`): scipy's `spearmanr`. What differs: where the correlation is undefined, because either side is
constant, scipy gives NaN and this gives 0.0, so that a collapsed model has a place in a table, where it is marked.
Tables show it times 100, as papers do.
"""

from typing import Any

from scipy.stats import spearmanr

from src.metrics.base import OneNumber
from src.metrics.correlation import defined
from src.metrics.inputs import NUMBERS


class Spearman(OneNumber):
    """Linear correlation of two lists' ranks; ties share their mean rank."""

    name = "spearman"
    citation = "Spearman 1904, https://doi.org/10.2307/1412159"
    takes = "predictions, references: numbers"
    features = NUMBERS

    def _value(self, predictions: Any, references: Any) -> float:
        return defined(spearmanr, predictions, references)
