"""What a look at a task's rows shows that a reader of its scores should know: nothing to learn, or nothing to tell."""

from collections import Counter
from typing import Any

from src.config.schema import TaskConfig
from src.tasks.overlap import input_text

Rows = list[dict[str, Any]]
NAMED = 5  # classes named in a line


def findings(splits: dict[str, Rows], label_names: list[str], task: TaskConfig) -> list[str]:
    """Sentences on empty and equal inputs, on labels that can't be learned or told apart, on empty answers, and on
    line breaks that the task's settings spell out.
    """  # fmt: skip
    # Equal splits, as in protocol=paper, would be said twice.
    distinct = {split: rows for split, rows in splits.items() if split != "validation" or rows is not splits["test"]}
    found = [*_spelled_out(task), *(said for split, rows in distinct.items() for said in _inputs(split, rows))]
    if "label" in splits["train"][0]:
        return found + (_classes(distinct, label_names) if len(label_names) > 1 else _numbers(distinct))
    return found + _answers(distinct)


def _spelled_out(task: TaskConfig) -> list[str]:
    """The settings in which a backslash and a letter stand, which no quotes on a command line make a line break."""
    settings = {"task.prompt": [task.prompt or ""], "task.stop": task.stop}
    return [
        f"{name} spells out \\{letter}; a {character} is written {name}=$'...\\{letter}...' in a shell"
        for name, texts in settings.items()
        for letter, character in (("n", "line break"), ("t", "tab"))
        if any(f"\\{letter}" in text for text in texts)
    ]


def _inputs(split: str, rows: Rows) -> list[str]:
    texts = [input_text(row) for row in rows]
    # Each of a pair's texts by itself: one that is empty is as bad beside another.
    empty = sum(any(not row[key].strip() for key in ("text", "text_pair", "prompt") if key in row) for row in rows)
    said = [f"{empty:,} of {len(rows):,} {split} items have an empty text"] if empty else []
    if len(rows) > 1 and len(set(texts)) == 1:
        said.append(f"all {len(rows):,} {split} items have the same text")
    return said


def _classes(splits: dict[str, Rows], names: list[str]) -> list[str]:
    counts = {split: Counter(row["label"] for row in rows) for split, rows in splits.items()}
    trained = counts.pop("train")
    said = [f"all train items have one class, {names[next(iter(trained))]}"] if len(trained) == 1 else []
    for split, count in counts.items():
        unseen = sorted(label for label in count if label not in trained)
        if unseen:
            items = sum(count[label] for label in unseen)
            listed = ", ".join(names[label] for label in unseen[:NAMED]) + (", ..." if len(unseen) > NAMED else "")
            said.append(
                f"{items:,} of {len(splits[split]):,} {split} items have a class that no train item has: {listed}"
            )
        if len(count) == 1 and count.total() > 1:
            said.append(f"all {split} items have one class, {names[next(iter(count))]}")
    return said


def _numbers(splits: dict[str, Rows]) -> list[str]:
    constant = [split for split, rows in splits.items() if len(rows) > 1 and len({row["label"] for row in rows}) == 1]
    return [f"all {split} items have the same number, {splits[split][0]['label']:g}" for split in constant]


def _answers(splits: dict[str, Rows]) -> list[str]:
    # A conversation has none.
    empty = {
        split: sum("answer" in row and not row["answer"].strip() for row in rows) for split, rows in splits.items()
    }
    return [
        f"{count:,} of {len(splits[split]):,} {split} items have an empty answer"
        for split, count in empty.items()
        if count
    ]
