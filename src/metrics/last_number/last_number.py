r"""Share of texts whose final number is the reference's, for GSM8K and other sums told as stories. Higher is better.

The final number is

 1. the one behind the first `####`, in its line: GSM8K's own mark (openai/grade-school-math, dataset.py,
    `extract_answer`, and "strict-match" of EleutherAI/lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml), else
 2. the last number of the text (AGI-Edgerunners/LLM-Adapters, evaluate.py, `extract_answer_number`, and the harness's
    "flexible-extract"): "The answer is 58 + 94 = 152 inches." is 152, as is "58 and 94, so 152".

Commas are dropped as LLM-Adapters drops them, currencies, percent signs and units don't count, and numbers are compared
by value: 18, 18.0 and $18.00 are equal. References are read by the same rule, so a whole GSM8K solution will do.

What differs: a number is read as it is written. 3/4 and \frac{3}{4} are three quarters, 1 1/2 and 1½ one and a half,
1.5e3 and 1.5 × 10^3 are 1500, where LLM-Adapters reads the last run of digits; a minus may be typographic (−5) or
before a currency (-$5), and one behind a digit is a subtraction's or a range's, so that 10-18 ends in 18, not in -18.
LLM-Adapters takes numbers within 0.001 for equal, here they are equal or not. A text without a number is wrong, and a
division by zero is none. MetaMath's evaluator, which reads the first number behind its own mark, is `metamath`.
"""

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS

GSM8K_MARK = re.compile(r"####[^\S\n]*(.*)")
MINUS = re.compile("[\N{MINUS SIGN}\N{EN DASH}\N{FIGURE DASH}\N{FULLWIDTH HYPHEN-MINUS}](?=[\\d.$€£¥\\\\])")
VULGAR = re.compile("[¼-¾⅐-⅞↉]")  # ½ and its like
SEPARATOR = re.compile(r"(?<=\d)\{,\}(?=\d)")
LATEX_FRACTION = re.compile(r"(?P<whole>\d\s*)?\\[dt]?frac\s*(?:\{(-?[\d,.]+)\}\s*\{([\d,.]+)\}|(\d)\s*(\d))")

SIGN = r"(?P<sign>(?<!\d)-(?:\\?\$|[€£¥])?)"  # a minus behind a digit is a subtraction's or a range's
SIZE = r"(?:\d[\d,]*(?:\.\d[\d,]*)?|(?<!\d)\.\d+)"
POWER = (
    r"(?:[eE](?P<e>[-+]?\d{1,3})\b|\s*(?:\u00d7|\\times|\\cdot|[x*])\s*10\s*(?:\^|\*\*)\s*\{?(?P<ten>[-+]?\d{1,3})\}?)"
)
NUMBER = re.compile(
    rf"{SIGN}?(?:(?P<whole>\d[\d,]*)\s+(?:and\s+)?(?P<part>\d+)/(?P<parts>\d+)"
    rf"|(?P<size>{SIZE})(?:/(?P<divisor>{SIZE})|{POWER})?)",
    re.ASCII,
)


def in_ascii(text: str) -> str:
    """A text with its minus signs, fractions and separators in ASCII."""
    text = VULGAR.sub(
        lambda found: " " + unicodedata.normalize("NFKC", found[0]).replace("\N{FRACTION SLASH}", "/"), text
    )
    text = LATEX_FRACTION.sub(_in_one_line, SEPARATOR.sub(",", text))
    return MINUS.sub("-", text)


def _in_one_line(fraction: re.Match[str]) -> str:
    above, below = (fraction[2], fraction[3]) if fraction[2] else (fraction[4], fraction[5])
    return f"{fraction['whole']} {above}/{below}" if fraction["whole"] else f"{above}/{below}"


def value(found: re.Match[str]) -> Decimal | None:
    """The number that was matched; None for a division by zero."""
    if found["whole"]:
        divisor = _decimal(found["parts"])
        size = _decimal(found["whole"]) * divisor + _decimal(found["part"])
    else:
        divisor, size = _decimal(found["divisor"] or "1"), _decimal(found["size"])
    if power := found["e"] or found["ten"]:
        size = size.scaleb(int(power))
    if divisor == 0:
        return None
    if divisor != 1:  # a division, like all of Decimal's arithmetic, rounds to 28 digits
        size /= divisor
    return size.copy_negate() if found["sign"] else size


def _decimal(digits: str) -> Decimal:
    return Decimal(digits.replace(",", ""))


def final_number(text: str) -> Decimal | None:
    """A text's final number, by the rule above; None without one."""
    text = in_ascii(text)
    marked = GSM8K_MARK.search(text)
    if marked and (found := NUMBER.search(marked[1])):
        return value(found)
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
