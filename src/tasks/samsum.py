"""Summarize a chat: SAMSum (Gliwa et al. 2019, arXiv 1911.12237).

    {"id": "13862856", "summary": "Hannah needs Betty's number but Amanda doesn't have it. She needs to contact Larry.",
     "dialogue": "Hannah: Hey, do you have Betty's number?\\nAmanda: Lemme check\\nHannah: <file_gif>\\n..."}

LoRA (arXiv 2106.09685, Table 4) reports ROUGE-1, 2 and L for it and trains on the dialogue as input, the summary as
answer; its exact text isn't published. Some copies end a dialogue's lines with "\\r\\n", others with "\\n": here both
are "\\n". Nothing else of a dialogue is changed, "<file_gif>" included. Summaries lose the spaces around them, which a
sixth of them have. A row without a dialogue is left out; the training data are said to have one, null on the hub.
"""

from src.errors import UserError
from src.tasks.base import SPLITS, Row, TaskData
from src.tasks.source import DataRecord, Source


def load(source: Source) -> TaskData:
    """Read the official splits.

    Raises:
        UserError: a row has no summary.
    """
    notes: list[str] = []
    return TaskData({split: _rows(source, split, notes) for split in SPLITS}, label_names=[], notes=notes)


def _rows(source: Source, split: str, notes: list[str]) -> list[Row]:
    columns, template, rows = source.task.columns, source.task.prompt, []
    records = source.records(split)
    for record in records:
        dialogue, summary = _text(record, columns["dialogue"]), _text(record, columns["summary"]).strip()
        if not summary:
            raise UserError(f"{record.location} has an empty summary.\nIs it another set's file, or cut off?")
        if dialogue.strip():
            prompt = DataRecord({**record, "dialogue": dialogue}, record.location).filled(template)
            rows.append({"prompt": prompt, "answer": f" {summary}"})
    if len(rows) < len(records):
        left_out = f"{len(records) - len(rows):,} of {len(records):,} {split} items have no dialogue"
        notes.append(f"task={source.task.name}: {left_out} and are left out")
    return rows


def _text(record: DataRecord, columns: str) -> str:
    """The text in the first of the columns that the record has; "" where it is null."""
    return "" if record.first(columns) is None else record.text(columns).replace("\r\n", "\n")
