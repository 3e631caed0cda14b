"""What metrics share that are a mean over items: the numbers of the items go along, for intervals and tests."""

from collections.abc import Iterable
from typing import Any

ITEMS = "items"


def mean_of_items(name: str, values: Iterable[float]) -> dict[str, Any]:
    """The result of such a metric, which has the metric's name, and each item's number in the order of the items."""
    items = [float(value) for value in values]
    return {name: sum(items) / len(items), ITEMS: items}
