"""What metrics take, as `datasets.Features`: one place for the forms that several of them share."""

from collections.abc import Iterable
from typing import Any

import datasets

CLASSES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
NUMBERS = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})
TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
# Either one reference an item or a list of them; one form for all items of a call.
TEXTS_WITH_REFERENCES = [
    TEXTS,
    datasets.Features({"predictions": datasets.Value("string"), "references": [datasets.Value("string")]}),
]


def reference_lists(references: Iterable[Any]) -> list[list[str]]:
    """Each item's references as a list, also where the item has just one text."""
    return [[item] if isinstance(item, str) else list(item) for item in references]
