"""Pearson's correlation of predicted and true numbers, -1 to 1, as GLUE reports STS-B. Higher is better.

Follows GLUE's evaluator as Hugging Face carries it (huggingface/evaluate, metrics/glue/glue.py,
`pearson_and_spearman`): scipy's `pearsonr`. What differs: where the correlation is undefined, because either side is
constant, scipy gives NaN and this gives 0.0, so that a collapsed model has a place in a table, where it is marked.
Tables show it times 100, as papers do.
"""

from typing import Any

from scipy.stats import pearsonr

from src.metrics.base import OneNumber
from src.metrics.correlation import defined
from src.metrics.inputs import NUMBERS


class Pearson(OneNumber):
    """Linear correlation of two lists of numbers."""

    name = "pearson"
    citation = "Pearson 1895, https://doi.org/10.1098/rspl.1895.0041"
    takes = "predictions, references: numbers"
    features = NUMBERS

    def _value(self, predictions: Any, references: Any) -> float:
        return defined(pearsonr, predictions, references)
