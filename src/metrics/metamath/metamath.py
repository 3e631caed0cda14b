r"""Share of answers that MetaMath's evaluators of GSM8K and of MATH take for right. Higher is better.

The answer is what follows the last "The answer is: ", in exactly these characters; a text without them is wrong. How it
is read depends on whose question it is:

 - GSM8K's (meta-math/MetaMath, eval_gsm8k.py; CERT-Lab/lora-sb, instruction_tuning_eval/gsm8k_eval.py), whose reference
   is a number: by its first number, rounded to a whole one (half to even). "35 dollars", "**35**" and "34.7" are 35. A
   number has one comma, dot or slash at most, so that 1,234,567 is read as 1234, and a minus directly before a digit.
 - MATH's (eval_math.py, MATH_eval.py), whose reference is in a `\boxed{...}` or is no number: up to the first full stop
   at a line's end, and equal to the reference by `is_equiv` (`src/metrics/math_text.py`).

What differs: lora-sb takes more for equal than MetaMath, among it 1800 for 18 (as percent), what is within 0.01 % for
GSM8K and what sympy finds equal within 0.1 % for MATH; `math_verify` is a lenient rule for MATH. huggingface/peft
(method_comparison/MetaMathQA/utils.py), which trains on the same data, wants a number alone in the line behind the mark
(35 dollars is wrong), and "The answer is 35" or "#### 35" will do for it.
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.boxed import last_boxed
from src.metrics.inputs import TEXTS
from src.metrics.math_text import is_equiv

MARK = "The answer is: "
FIRST_NUMBER = re.compile(r"[-+]?\d*[.,/]?\d+")
REFERENCE = re.compile(r"(?:.*####)?\s*([-+]?[\d,]*\.?\d+)\s*", re.DOTALL)  # of GSM8K: its number or its solution
LIMIT_DIGITS = 308  # of what a float holds, as that evaluator's numbers do


def first_number(text: str) -> int | None:
    """The first number in a text as GSM8K's answers are: whole. None without one."""
    found = FIRST_NUMBER.search(text)
    if found is None or len(found[0]) > LIMIT_DIGITS:
        return None
    above, slash, below = found[0].replace(",", "").partition("/")
    if not slash:
        return round(Fraction(above))
    if not above.strip("+-"):  # a slash alone before it
        return None
    return round(Fraction(above) / (int(below) or 1))


def is_right(text: str, reference: str) -> bool:
    """Whether a text's marked answer is the reference, by the evaluator whose question it is."""
    _, mark, answer = text.rpartition(MARK)
    if not mark:
        return False
    if number := REFERENCE.fullmatch(reference):
        return first_number(answer) == Fraction(number[1].replace(",", ""))
    answer = answer.partition(".\n")[0].strip().removesuffix(".").strip()
    return is_equiv(answer, last_boxed(reference) or reference)


class MetaMath(MeanOfItems):
    """Share of right answers, 0 to 1."""

    name = "metamath"
    citation = "Yu et al. 2023, https://arxiv.org/abs/2309.12284"
    takes = "predictions: texts; references: GSM8K's numbers, and MATH's answers in a box"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        return (is_right(answer, right) for answer, right in pairs)
