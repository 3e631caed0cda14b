r"""Share of texts whose final answer is the reference's as MATH itself compares them. Higher is better.

The final answer is the content of the last `\boxed{...}` (hendrycks/math, modeling/dataset/util.py,
`last_boxed_only_string`), else what follows the last "The answer is" up to the line's end, else the whole text, which
suits references that are bare answers. Two answers are equal if `is_equiv` of hendrycks/math says so
(`src/metrics/math_text.py`). It compares spellings: 1/4 isn't 0.25, 2516_8 isn't 2516_9, "10, 4, -2" isn't "4, 10, -2".

What differs are words and signs that no mathematics is in:

 - dollar signs around mathematics, percent signs with or without a backslash, a full stop at the end, commas between
   thousands, and \text around a whole answer are dropped on both sides;
 - where the reference is a number, so is what stands around a number in words: "The answer is" before it, a currency
   or emphasis about it, units or a remark in brackets behind it. 35 dollars, 5 cm^2, **18**, 18 (eighteen) and
   \text{The answer is } 5 are those numbers. Words that are part of a quantity, as in 2 pi, 3 dozen or 5 squared, and
   letters that may be variables, as in 5x, 5m or 5 x, stay; 5 m, 5 g, 5 l and 5 s have units.

Prose without a mark is wrong. `math_verify` is the lenient rule, by which answers are equal that are equal as algebra;
`metamath` reads texts as MetaMath's evaluators do.
"""

import re
from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.boxed import marked_answer
from src.metrics.inputs import TEXTS
from src.metrics.math_text import is_equiv

SIGNS = re.compile(r"(?<!\\)\$|\\?%|(?<!\\)\\[()]")  # around mathematics; a sum of money's dollar sign is \$
THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|\\!)(?=\d{3}(?!\d))")
TEXT = re.compile(r"\\(?:text|textbf|textit|mbox|mathrm)\{([^{}\\]*)\}")
EMPHASIS = re.compile(r"(?<!\w)(\*{1,3}|__?|`)([^*_`]+)\1(?!\w)")
SPACES = re.compile(r"\\[,;: ]|~|\\(?:quad|qquad)\b")

NUMBER = r"[-\u2212]?(?:\d+/\d+|\d+(?:\.\d+)?|\.\d+|\\[dt]?frac(?:\d\d|\{\d+\}\{\d+\}))"
# No units: names of numbers and constants, of operations, comparisons, and of several answers.
QUANTITIES = (
    "pi|tau|phi|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|root|mod|base|infinity|hal(?:f|ves)|thirds?|quarters?|tenths?|"
    "hundred(?:th)?s?|thousand(?:th)?s?|[mbtr]+illions?|dozens?|plus|minus|times|over|divided|squared|cubed|factorial|"
    "choose|power|remainder|and|or|to|through|between|not|more|less|fewer|greater|least|most"
)
WORD = rf"(?!(?:{QUANTITIES})\b)[^\W\d_]"
SYMBOL = r"(?:[cdkm]?m|[km]?g|[cdkm]?l|oz|lbs?|ft|in|yd|mi|hrs?|min|sec|[mk]ph|[ap]\.?m|USD?|EUR|GBP)\b"
MONEY = r"(?:\\?\$|[€£¥₹₽₩]|USD?\s?\$?|EUR|GBP)"
UNITS = rf"(?:(?<=\d)(?!\w\b){SYMBOL}|\s+(?:{SYMBOL}|s\b|{WORD}{{3,}}))(?:[\s/,-]+{WORD}+)*(?:\s*\^\{{?[23]\}}?|[²³])?"
IN_WORDS = re.compile(
    rf"\s*(?:the\s+(?:final\s+)?answer\s+is\s*:?)?\s*(?P<sign>[-\u2212]?){MONEY}?\s*(?P<number>{NUMBER})"
    rf"\s*(?:{MONEY}|°[CF]?)?(?:{UNITS})?(?:\s*\({WORD}[^()\d=+*/^\\]*\))?(?:\s*\.(?:\s+[A-Z].*)?)?\s*",
    re.IGNORECASE | re.DOTALL,
)


def spelled(answer: str) -> str:
    r"""An answer without what is no mathematics on either side: dollar and percent signs, commas, \text around it."""
    answer = THOUSANDS.sub("", SIGNS.sub("", answer)).strip().rstrip(".").strip()
    whole = TEXT.fullmatch(answer)
    return whole[1].strip() if whole else answer


def number_in_words(answer: str) -> str | None:
    """The number that an answer is, with its units and other words around it; None where it's more or none."""
    plain = EMPHASIS.sub(r"\2", TEXT.sub(r" \1 ", SPACES.sub(" ", answer)))
    found = IN_WORDS.fullmatch(" ".join(plain.split()))
    return found and f"{found['sign']}{found['number']}".replace("\N{MINUS SIGN}", "-")


def equivalent(answer: str, right: str) -> bool:
    """Whether an answer is the reference, in MATH's spelling or as a number in words."""
    answer, right = spelled(answer), spelled(right)
    if is_equiv(answer, right):
        return True
    number = number_in_words(answer) if re.fullmatch(NUMBER, right) else None
    return number is not None and is_equiv(number, right)


class MathEquivalence(MeanOfItems):
    """Share of answers that MATH takes for the reference, 0 to 1."""

    name = "math_equivalence"
    citation = "Hendrycks et al. 2021, https://arxiv.org/abs/2103.03874"
    takes = "predictions: texts; references: solutions or answers, in LaTeX"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        pairs = zip(predictions, references, strict=True)
        return (equivalent(marked_answer(answer), marked_answer(right)) for answer, right in pairs)
