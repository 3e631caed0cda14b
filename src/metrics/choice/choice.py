"""Share of texts whose first named choice is the right one, for the commonsense tasks. Higher is better.

Follows LLM-Adapters (AGI-Edgerunners/LLM-Adapters, commonsense_evaluate.py, `extract_answer`): the first occurrence of
one of the task's choices in the text is its answer, whatever comes before or after, in lower case only ("True" is not
"true"); a text that names none is wrong. That evaluator takes the choices from the data set's name, this one from the
reference: `answer3` is one of answer1 to answer5. Its answers are the same for every data set it knows.
"""

import re
from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS

KINDS = [
    re.compile(pattern)
    for pattern in (
        "true|false",  # BoolQ
        "solution[12]",  # PIQA
        "answer[1-5]",  # SIQA, ARC-Easy, ARC-Challenge, OpenBookQA
        "ending[1-4]",  # HellaSwag
        "option[12]",  # WinoGrande
    )
]


def kind_of(reference: str) -> re.Pattern[str]:
    """The choices that the reference is one of.

    Raises:
        ValueError: it is of no kind.
    """
    for kind in KINDS:
        if kind.fullmatch(reference):
            return kind
    allowed = ", ".join(kind.pattern for kind in KINDS)
    raise ValueError(f"The reference {reference!r} is no choice; choices are {allowed}.")


def named(text: str, reference: str) -> str | None:
    """The first choice of the reference's kind in a text."""
    match = kind_of(reference).search(text)
    return match and match.group()


class Choice(MeanOfItems):
    """Share of texts that name the right choice first, 0 to 1."""

    name = "choice"
    citation = "Hu et al. 2023, https://arxiv.org/abs/2304.01933"
    takes = "predictions: texts; references: choices such as true, solution1 or answer3"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        return (named(answer, right) == right for answer, right in pairs)
