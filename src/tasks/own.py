"""Data of one's own, without code: classes, pairs, numbers, choices, and prompts with answers, from any table.

A csv file of reviews, say, and the command that trains on it:

    review,stars
    "Broke after a week, sadly.",1

    python -m src.run task=own task.kind=classification task.path=reviews.csv task.columns.text=review \\
        task.columns.label=stars

Where there is no file for the test, or none for validation, the rows are held out of the training rows
(`src.tasks.splitting`). Classes are those of the training rows, unless `task.labels` names them. A choice is answered
by its place, in the words of the commonsense tasks, so that `choice` reads it.
"""

import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Any

from src.config.own_data import KINDS, RIGHT_CHOICE, column_of
from src.errors import UserError, nearest_first
from src.tasks.base import Row, TaskData
from src.tasks.own_records import records_by_split
from src.tasks.source import NUMBER, DataRecord, Source
from src.tasks.splitting import stratified

NUMBER_NAME = "number"  # of the single label, whatever its column is called: a name is no part of the data
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_CHOICES = 5  # that the metric `choice` tells apart: it would read "answer10" as answer1


def load(source: Source) -> TaskData:
    """Read the splits that there are, and hold out a test split where there is none.

    Raises:
        UserError: a file, a column or a value isn't there, or can't be what the task's kind says.
    """
    records, notes = records_by_split(source)
    task, splits = source.task, {}
    _check_columns_there(records["train"][0][0], source)
    names = _label_names(source, records["train"])
    for split, its in records.items():
        splits[split] = [{**_row(record, source, names), **of_set} for record, of_set in its]
    if "test" not in splits:
        rows = splits["train"]
        held_out = stratified(rows, task.split.test, task.split.seed, "test")
        splits["train"] = [row for index, row in enumerate(rows) if index not in held_out]
        splits["test"] = [rows[index] for index in sorted(held_out)]
    return TaskData(splits, names, [*notes, *_which_class_counts(source, names)])


def _which_class_counts(source: Source, names: list[str]) -> list[str]:
    """Which of two classes F1 is of, where only the alphabet has decided it."""
    task = source.task
    ordered = bool(task.labels) or all(NUMBER.fullmatch(name) for name in names)
    if "f1" not in (task.metric, *task.more_metrics) or ordered or len(names) != 2:
        return []
    return [f"task={task.name}: f1 is that of the class {names[1]}; of the other, task.labels=[{names[1]},{names[0]}]"]


def _check_columns_there(record: DataRecord, source: Source) -> None:
    """Refuse a role without a column, with the setting that names one."""
    task = source.task
    roles = [role for role in KINDS[str(task.kind)].columns if role not in ("choices", "prompt")]
    roles += ["prompt"] if "prompt" in KINDS[str(task.kind)].columns and not task.prompt else []
    for role in roles:
        column = column_of(task, role)
        if column not in record:
            has = ", ".join(nearest_first(column, map(str, record)))
            raise UserError(
                f"{record.location} has no column '{column}'.\nIt has: {has}.\nName the one: task.columns.{role}=..."
            )


def _row(record: DataRecord, source: Source, names: list[str]) -> Row:
    task = source.task
    if task.architecture == "classifier":
        paired = task.kind == "pairs" or task.columns.get("text_pair")
        texts = {key: record.text(column_of(task, key)) for key in ("text", *(["text_pair"] if paired else []))}
        column = column_of(task, "label")
        return {**texts, "label": record.number(column) if names == [NUMBER_NAME] else record.label(column, names)}
    return _choice(record, source) if task.kind == "choice" else _answer(record, source)


# ---- classes


def _label_names(source: Source, train: list[tuple[DataRecord, dict[str, str]]]) -> list[str]:
    """The classes in their order: those that the task names, else those of the training rows, sorted."""
    task = source.task
    if task.architecture != "classifier":
        return []
    if task.kind == "regression":
        return [NUMBER_NAME]
    if task.labels:
        return task.labels
    column = column_of(task, "label")
    places: dict[str, str] = {}
    for record, _ in train:
        places.setdefault(_class_name(record, column), record.location)
    names = list(places)
    if len(names) < 2:
        raise UserError(
            f"All training rows of task={task.name} have the class '{names[0]}' in column '{column}'.\n"
            "Allowed: two classes or more. Is it the right column?"
        )
    _check_distinct(places)
    numbers = {name: number for name in names if (number := _number(name)) is not None}
    return sorted(names, key=numbers.__getitem__) if len(numbers) == len(names) else sorted(names)


def _number(name: str) -> Decimal | None:
    """The number that is a class's name, exactly: of floats, two long ones, such as ids, would be one."""
    try:
        return Decimal(name.strip()) if NUMBER.fullmatch(name) else None
    except InvalidOperation:  # with an exponent that no number has, as a hash may look
        return None


def _class_name(record: DataRecord, column: str) -> str:
    value = record[column]
    name = str(value) if isinstance(value, str | int) else ""
    if not name.strip():
        raise UserError(
            f"{record.location} has {'null' if value is None else repr(value)} in column '{column}', where a class "
            "must be.\nAllowed: a text or a whole number."
        )
    return name


def _check_distinct(places: dict[str, str]) -> None:
    """Refuse two classes whose names may be meant as one, as "1" and "01" or "pos" and "Pos "."""
    seen: dict[object, str] = {}
    for name, place in places.items():
        alike = _alike(name)
        other = seen.setdefault(alike, name)
        if other != name:
            raise UserError(
                f"The classes '{other}' ({places[other]}) and '{name}' ({place}) look like one.\n"
                "Write them alike, or name all classes: task.labels=[...]."
            )


def _alike(name: str) -> object:
    """What two ways to write one class have in common: a number's value, else the letters that can be seen."""
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", name) if not _is_unseen(letter))
    seen = seen.strip().casefold()
    number = {"true": Decimal(1), "false": Decimal(0)}.get(seen, _number(seen))
    return seen if number is None else number


def _is_unseen(letter: str) -> bool:
    """Whether a character shows nothing of its own: a format character, or one that chooses an emoji's style."""
    return unicodedata.category(letter) == "Cf" or unicodedata.name(letter, "").startswith("VARIATION SELECTOR")


# ---- texts to write


def _answer(record: DataRecord, source: Source) -> Row:
    task = source.task
    prompt = record.filled(task.prompt) if task.prompt else record.text(column_of(task, "prompt"))
    answer = record.text(column_of(task, "answer")).strip()
    if not answer:
        raise UserError(
            f"{record.location} has an empty answer in column '{column_of(task, 'answer')}', from which nothing can be "
            "learned.\nGive the row an answer, or leave it out."
        )
    row = {"prompt": prompt, "answer": _joined(prompt, answer)}
    reference = task.columns.get("reference")
    return {**row, "reference": _reference(record, reference)} if reference else row


def _joined(prompt: str, answer: str) -> str:
    """The answer with the space before it that the prompt doesn't end in: most tokenizers keep it with the word."""
    return answer if prompt[-1:].isspace() else f" {answer}"


def _reference(record: DataRecord, column: str) -> str | list[str]:
    """What the metric compares with: a text, a number, or a list of texts of which each would be right."""
    value = record[column]
    if any(isinstance(text, str) and not text.strip() for text in (value if isinstance(value, list) else [value])):
        raise UserError(
            f"{record.location} has an empty text in column '{column}', to which an empty answer would be equal.\n"
            "Give the row a reference, or leave it out."
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Nothing is learned from it, and a metric of numbers compares by value.
        record.number(column)
        return str(value)
    if isinstance(value, list):
        if not value or not all(isinstance(text, str) for text in value):
            raise UserError(
                f"{record.location} has {value} in column '{column}'.\nAllowed: a text, or a list of texts."
            )
        return list(value)
    return record.text(column)


def _choice(record: DataRecord, source: Source) -> Row:
    task = source.task
    choices, letters = _choices(record, column_of(task, "choices"))
    if len(choices) > MOST_CHOICES and "choice" in (task.metric, *task.more_metrics):
        raise UserError(
            f"{record.location} has {len(choices)} choices; the metric choice knows answer1 to answer{MOST_CHOICES}.\n"
            "Allowed: fewer choices, or task.metric=exact_match."
        )
    listed = "\n".join(f"answer{number}: {choice}" for number, choice in enumerate(choices, start=1))
    template = task.prompt or "{prompt}\n\n{choices}\n\nAnswer:"
    if "{choices}" not in template:
        raise UserError("task.prompt doesn't show the choices.\nAllowed: a template with {choices} in it.")
    asked = {} if task.prompt else {"prompt": record.text(column_of(task, "prompt"))}
    prompt = DataRecord({**record, **asked, "choices": listed}, record.location).filled(template)
    answer = f"answer{_right(record, source, choices, letters) + 1}"
    return {"prompt": prompt, "answer": _joined(prompt, answer), "reference": answer}


def _choices(record: DataRecord, column: str) -> tuple[list[str], list[str]]:
    """The choices with their letters: of one column that holds a list, or of several, as in "right, wrong"."""
    names = [name.strip() for name in column.split(",")]
    if column in record or len(names) == 1:
        value = record[column]
        # As the hub has AI2's: {"text": [...], "label": ["A", "B", ...]}.
        letters = value.get("label") if isinstance(value, dict) else None
        choices: Any = value.get("text") if isinstance(value, dict) else value
    else:
        choices, letters = [record.text(name) for name in names], None
    texts = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not texts or len(choices) < 2 or len(set(choices)) < len(choices):
        raise UserError(
            f"{record.location} has {choices!r} in column '{column}', where choices must be.\n"
            "Allowed: a list of two or more different texts, or the names of several columns: 'first, second'."
        )
    return list(choices), list(letters or LETTERS[: len(choices)])


def _right(record: DataRecord, source: Source, choices: list[str], letters: list[str]) -> int:
    """Which choice is right, by what its column is named as: its text, its index from 0 or 1, or its letter."""
    task = source.task
    role = next((role for role in RIGHT_CHOICE if task.columns.get(role)), "answer")
    count = range(len(choices))
    allowed = {
        "answer": choices,
        "answer_index": [str(index) for index in count],
        "answer_number": [str(index + 1) for index in count],
        "answer_letter": letters,
    }[role]
    value = record[column_of(task, role)]
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if text not in allowed:
        others = ", ".join(f"task.columns.{other}" for other in RIGHT_CHOICE if other != role)
        raise UserError(
            f"{record.location} has {value!r} in column '{column_of(task, role)}', which is no {role}.\n"
            f"Allowed: {', '.join(nearest_first(str(value), allowed))}.\nOr name the column as what it is: {others}."
        )
    return allowed.index(text)
