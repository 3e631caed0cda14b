"""ROUGE-L as the E2E NLG challenge reports it, the mean over items, 0 to 1. Higher is better.

Follows tuetschek/e2e-metrics (pycocoevalcap/rouge/rouge.py, from coco-caption). Not `rouge_l`: recall weighs more (beta
1.2), the best precision and the best recall over an item's references are combined even if they are of two references,
and words aren't stemmed.

What differs: that evaluator cuts words with Stanford's PTBTokenizer, a Java program, and drops punctuation. Here a
regular expression does: lower case, contractions cut as "is n't" and "it 's", hyphened words whole, punctuation
dropped. Abbreviations with dots and brackets may come out otherwise.
"""

import re
from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS_WITH_REFERENCES, reference_lists

BETA = 1.2
ENDINGS = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))\b")  # of contractions: words of their own
WORD = re.compile(rf"{ENDINGS.pattern}|([^\W_]+(?:[-.,/'][^\W_]+)*|[£$€%&])")


def tokens(text: str) -> list[str]:
    """A text's words in lower case."""
    return [match.group() for match in WORD.finditer(ENDINGS.sub(r" \1", text.lower()))]


def common_length(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        above = row
        row = [0]
        for column, other in enumerate(second):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[-1]))
    return row[-1]


def rouge_l(answer: list[str], references: list[list[str]]) -> float:
    """F-beta of the best precision and the best recall; 0.0 without a common word."""
    common = [common_length(answer, right) for right in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(answer)
    recall = max(length / len(right) for length, right in zip(common, references, strict=True) if right)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


class RougeLCoco(MeanOfItems):
    """Mean over items of coco-caption's ROUGE-L."""

    name = "rouge_l_coco"
    citation = "Lin 2004, https://aclanthology.org/W04-1013"
    takes = "predictions: texts; references: a text or a list of texts each"
    features = TEXTS_WITH_REFERENCES

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, reference_lists(references), strict=True)
        values = (rouge_l(tokens(answer), [tokens(text) for text in right]) for answer, right in pairs)
        return values
