"""Items that occur more than once, in two splits or in one: the first thing that makes a score too good."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BETWEEN_WORDS = re.compile(r"[\W_]+")
INSIDE = "inside"  # the key's first word of a split compared with itself


@dataclass(frozen=True)
class Overlap:
    """Of `items` inputs, how many occur in other data character by character, and how many normalized.

    Inside one split, those that an earlier item repeats.
    """

    items: int
    exact: int
    normalised: int  # spelled as in the records that have it

    def warning(self, task: str, split: str, other: str = "train", *, pairs: bool = False) -> str | None:
        """A sentence for people; None where there is nothing to warn of.

        Args:
            other: the split that has them too; `split` itself where items repeat earlier ones.
            pairs: items are pairs of texts, compared in either order.
        """
        if not self.normalised:
            return None
        there = f"repeat an earlier {split} item" if other == split else f"are in {other} too"
        return (
            f"task={task}: {self.normalised:,} of {self.items:,} {split} items {there}: "
            f"{self.exact:,} exactly, {self.normalised - self.exact:,} up to case, punctuation"
            f"{', spaces and order' if pairs else ' and spaces'}"
        )


@dataclass(frozen=True)
class SplitInputs:
    """The inputs of a split's rows: as they stand, and as they are compared; labels and answers have no part."""

    exact: list[str]
    normalized: list[tuple[str, ...]]

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> "SplitInputs":
        """Normalize each row's input once, for all the splits that it is compared with."""
        shown = [(input_text(row), compared(row)) for row in rows]
        return cls([text for text, _ in shown], [key for _, key in shown])

    def found_in(self, other: "SplitInputs") -> Overlap:
        """Count the items that are also in the other split."""
        exact, normalized_inputs = set(other.exact), set(other.normalized)
        return Overlap(
            items=len(self.exact),
            exact=sum(text in exact for text in self.exact),
            normalised=sum(key in normalized_inputs for key in self.normalized),
        )

    def repeated(self) -> Overlap:
        """Count the items that are there already: all of equal ones but the first."""
        items = len(self.exact)
        return Overlap(items, items - len(set(self.exact)), items - len(set(self.normalized)))


def overlaps(splits: dict[str, list[dict[str, Any]]]) -> dict[str, Overlap]:
    """Compare every split with those before it and with itself.

    Returns, by key: "validation" and "test" for their items that are in train, "test_validation" for test items that
    are in validation, "inside_<split>" for items that repeat an earlier one. Splits that are one are compared once.
    """
    train, validation, test = (SplitInputs.of(splits[split]) for split in ("train", "validation", "test"))
    found = {"validation": validation.found_in(train), "test": test.found_in(train)}
    inside = {"train": train, "validation": validation, "test": test}
    # Where one stands for the other, as in protocol=paper, all of it would be counted.
    if splits["validation"] is splits["test"]:
        del inside["validation"]
    else:
        found["test_validation"] = test.found_in(validation)
    return found | {f"{INSIDE}_{split}": inputs.repeated() for split, inputs in inside.items()}


def overlap_warnings(task: str, found: dict[str, Overlap], *, pairs: bool) -> list[str]:
    """A sentence for each comparison that found something."""
    said = []
    for key, counted in found.items():
        first, _, second = key.partition("_")
        compared_splits = (second, second) if first == INSIDE else (first, second or "train")
        said.append(counted.warning(task, *compared_splits, pairs=pairs))
    return [warning for warning in said if warning]


def input_text(row: dict[str, Any]) -> str:
    """What a model is shown of a row: its text or texts, its prompt, or the turns of a conversation."""
    return "\n".join(_texts(row))


def compared(row: dict[str, Any]) -> tuple[str, ...]:
    """A row's texts normalized; those of a pair in one order, as a pair turned round is the same to most tasks."""
    # Signs alone, as in "?!", are themselves: normalized, all of them would be one.
    keys = [normalized(text) or text.strip() for text in _texts(row)]
    return tuple(sorted(keys) if "text_pair" in row else keys)


def _texts(row: dict[str, Any]) -> list[str]:
    return row.get("turns") or [row[key] for key in ("text", "text_pair", "prompt") if key in row]


def normalized(text: str) -> str:
    """The text without case, punctuation, spacing and Unicode variants."""
    return BETWEEN_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
