"""Share of texts whose final number is the reference's, for GSM8K. Higher is better.

The final number is the first one behind

 1. the first `####`, GSM8K's own mark (openai/grade-school-math, dataset.py, `extract_answer`, and "strict-match" of
    EleutherAI/lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml), else
 2. the last "The answer is", MetaMath's mark (meta-math/MetaMath, eval_gsm8k.py; huggingface/peft,
    method_comparison/MetaMathQA/utils.py, `parse_answer`), with or without a colon and in any case,

within the line that follows the mark. Without a mark, or without a number in that line, it is

 3. the last number of the text (the harness's "flexible-extract").

Commas, a dollar sign and a final dot are dropped, a fraction such as 3/4 is one number, and numbers are compared by
value: 18, 18.0 and $18.00 are equal. References are read by the same rule, so a whole GSM8K solution will do.

What differs: GSM8K compares texts, and only behind its own mark; MetaMath rounds to whole numbers; peft demands that
the line holds nothing else; the harness takes "20-3" to end in -3, here it ends in 3. A text without a number is wrong.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS

# A minus behind a digit is a subtraction's or a range's.
NUMBER = re.compile(r"(?P<sign>(?<!\d)-\$?)?(?P<size>\d[\d,]*(?:\.\d+)?|\.\d+)(?:/(?P<divisor>\d+))?", re.ASCII)
GSM8K_MARK = re.compile(r"####\s*(.*)")
METAMATH_MARK = re.compile(r"the answer is\s*:?\s*", re.IGNORECASE)


def value(match: re.Match[str]) -> Decimal | None:
    """The number that was matched; None for a division by zero."""
    size = Decimal(match["size"].replace(",", ""))
    if match["divisor"]:
        divisor = Decimal(match["divisor"])
        if divisor == 0:
            return None
        size /= divisor
    return -size if match["sign"] else size


def final_number(text: str) -> Decimal | None:
    """A text's final number, by the rule above; None without one."""
    _, *behind = METAMATH_MARK.split(text)
    for marked in GSM8K_MARK.findall(text)[:1] + behind[-1:]:
        if match := NUMBER.search(marked.partition("\n")[0]):
            return value(match)
    numbers = list(NUMBER.finditer(text))
    return value(numbers[-1]) if numbers else None


class LastNumber(MeanOfItems):
    """Share of equal final numbers, 0 to 1."""

    name = "last_number"
    citation = "Cobbe et al. 2021, https://arxiv.org/abs/2110.14168"
    takes = "predictions: texts; references: solutions or numbers as text"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        right = [final_number(text) for text in references]
        if None in right:
            raise ValueError(f"The reference {references[right.index(None)]!r} holds no number.")
        pairs = zip(predictions, right, strict=True)
        return (final_number(answer) == number for answer, number in pairs)
