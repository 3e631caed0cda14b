"""GLUE: nine tasks on sentences and pairs of sentences (Wang et al. 2019, arXiv:1804.07461).

The original files are those that download_glue_data.py writes, a folder a task. Fields stand between tabs, quotes are
characters like others and nothing is stripped. The first two lines of SST-2/train.tsv, with a space before the tab:

    sentence	label
    hide new secretions from the parental units 	0

Each task has its quirk: CoLA's files have no header, MRPC's begin with a byte-order mark, a few of QQP's lines are
broken in two, MNLI, QNLI and RTE give labels by name, STS-B numbers. Rows are those of Hugging Face's reader
(huggingface/datasets, datasets/glue/glue.py), which made the hub's parquet files.

The labels of the official test sets are hidden, so papers report the official dev set, as LoRA's Table 2 does
(arXiv:2106.09685): it is the test split here, and the test files aren't read. No split is left to choose a checkpoint
or a rate on; `validation_size` training rows are: a thousand of a large set (as Karimi Mahabadi et al. 2021,
arXiv:2106.04647), a tenth of a small one.
"""

from src.errors import UserError
from src.tasks.base import Row, TaskData
from src.tasks.source import DataRecord, Source

LARGEST_SCORE = 5.0
MOST_BROKEN = 0.01


def load(
    source: Source,
    *,
    labels: list[str],
    file_columns: dict[str, str] | None = None,
    file_header: list[str] | None = None,
    skip_broken_lines: bool = False,
) -> TaskData:
    """Read the official train and dev files, or the hub's.

    Args:
        labels: names of the classes in their order; a single one means a number to be predicted.
        file_columns: columns that are named otherwise in the original files than on the hub.
        file_header: all columns of files that have no header.
        skip_broken_lines: leave out lines that lack columns or a label, as Hugging Face's reader does.

    Raises:
        UserError: a file or a column isn't there, or a label isn't one of the set's.
    """
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    notes = []
    for split, rows in splits.items():
        for part in source.parts(split):
            # The files and the hub may name a column differently.
            columns = {**source.task.columns, **(file_columns or {} if source.has_file(part) else {})}
            records = source.records(part, header=file_header)
            if skip_broken_lines:
                whole = _unbroken(records, columns)
                if len(whole) < len(records):
                    left_out = f"{len(records) - len(whole):,} of {len(records):,} lines of {part} are broken"
                    notes.append(f"task={source.task.name}: {left_out} and left out")
                records = whole
            of_set = {} if part == split else {"set": part.removeprefix(f"{split}_")}
            rows += [{**_row(record, columns, labels), **of_set} for record in records]
    return TaskData(splits, labels, notes)


def _row(record: DataRecord, columns: dict[str, str], labels: list[str]) -> Row:
    texts = {key: record.text(column) for key, column in columns.items() if key != "label"}
    if len(labels) == 1:
        return {**texts, "label": _score(record, columns["label"])}
    return {**texts, "label": record.label(columns["label"], labels)}


def _score(record: DataRecord, column: str) -> float:
    """A similarity with the files' three decimals; the hub has the nearest float32."""
    value = record[column]
    try:
        score = round(float(value), 3)
    except (TypeError, ValueError):
        # Out of range, so that what is no number is refused below with the same words.
        score = -1.0
    if not 0 <= score <= LARGEST_SCORE:
        raise UserError(
            f"{record.location} has the score '{value}' in column '{column}'.\n"
            f"Allowed: a number from 0 to {LARGEST_SCORE:g}; the official test set's scores are hidden."
        )
    return score


def _unbroken(records: list[DataRecord], columns: dict[str, str]) -> list[DataRecord]:
    """The records that have everything, or all of them where too many don't: then the file is no official one."""
    # A line that was cut off may have its label's column, and nothing in it.
    whole = [record for record in records if set(columns.values()) <= record.keys() and record[columns["label"]] != ""]
    return whole if len(whole) >= (1 - MOST_BROKEN) * len(records) else records
