r"""MATH's own test of equality: two answers are equal if their texts are, once both are written in one way.

This follows `is_equiv` of hendrycks/math (modeling/math_equivalence.py), which meta-math/MetaMath has too (util.py).
It knows spellings, not algebra: 1/2, 0.5, \frac12 and \tfrac{1}{2} are equal, 1/4 and 0.25, 3 and 3.0, x+1 and 1+x,
A and a, or the same numbers in another order are not. What it can't read is compared as it stands.
"""

import re

REWRITTEN = [  # in this order
    *(("\n", ""), (r"\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), (r"\left", ""), (r"\right", "")),
    *((r"^{\circ}", ""), (r"^\circ", ""), (r"\$", "")),
]
UNIT = r"\text{ "  # only units have a space there; a second one can't be read
BARE_ROOT = re.compile(r"\\sqrt([^{])")
BARE_FRACTION = re.compile(r"\\frac([^{])(.)")


def is_equiv(first: str, second: str) -> bool:
    """Whether MATH takes two answers for equal."""
    try:
        return _normalized(first) == _normalized(second)
    except ValueError:
        return first == second


def _normalized(text: str) -> str:
    """The one way in which an answer is written.

    Raises:
        ValueError: it can't be read.
    """
    for old, new in REWRITTEN:
        text = text.replace(old, new)
    text, *units = text.split(UNIT)
    if len(units) > 1:
        raise ValueError(f"several units: {units}")
    text = text.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    text = re.sub(r"\A\.", "0.", text)
    text = re.sub(r"\A[^=]{0,2}=(?=[^=]*\Z)", "", text)  # "x = " before the answer
    return _fraction_of(_braced(text))


def _braced(text: str) -> str:
    r"""\sqrt2 as \sqrt{2} and \frac12 as \frac{1}{2}, without spaces."""
    if re.search(r"\\sqrt(\\sqrt|\Z)", text):
        raise ValueError("a root of nothing")
    text = BARE_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")
    for piece in text.split(r"\frac")[1:]:
        if not piece:
            raise ValueError("a fraction of nothing")
        if len(piece) == 1 and piece != "{":  # half a fraction leaves all as they are
            return text
    return BARE_FRACTION.sub(lambda found: rf"\frac{{{found[1]}}}" + _in_braces(found[2]), text)


def _in_braces(character: str) -> str:
    return character if character == "{" else f"{{{character}}}"


def _fraction_of(text: str) -> str:
    """0.5 and a/b as fractions; one slash between what aren't whole numbers can't be read."""
    if text == "0.5":
        return r"\frac{1}{2}"
    if text.count("/") != 1:
        return text
    above, below = map(int, text.split("/"))
    return rf"\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
