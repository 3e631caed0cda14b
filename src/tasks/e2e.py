"""Describe a restaurant from its data: the E2E NLG challenge (Novikova et al. 2017, arXiv 1706.09254).

One row of the challenge's csv, and the same row of LoRA's text file (microsoft/LoRA, examples/NLG/data/e2e):

    "name[The Mill], eatType[coffee shop], food[Chinese], priceRange[£20-25], area[riverside], near[The Sorrento]",
    "The Mill serves Chinese food for around £20-25. It's by the river, near The Sorrento coffee shop."

    name : The Mill | Type : coffee shop | food : Chinese | price : £ 20 - 25 | area : riverside | near : The Sorrento
    ||The Mill serves Chinese food for around £ 20 - 25 . It 's by the river , near The Sorrento coffee shop .

Both have the same rows in the same order. They give the same prompts, since the csv's data is written as LoRA writes
it, but not the same descriptions: LoRA's are cut into words by some tokenizer with its quirks ("Browns Cambridge- a
family - friendly"). Each form keeps its own; the hub has the csv's.

LoRA puts the end-of-text token between data and description (src/gpt2_encode.py); here it is the file's "||", which all
models have. Each description is a training row. Validation and test have one row for distinct data, with all of its
descriptions as references, as LoRA scores them (src/gpt2_decode.py).
"""

import re

from src.errors import UserError
from src.tasks.base import Row, TaskData
from src.tasks.source import DataRecord, Source

FIELD = re.compile(r"(\w[\w ]*)\[([^\]]*)\](?:, |$)")
NAMES = {"eatType": "Type", "familyFriendly": "family friendly", "priceRange": "price"}


def load(source: Source) -> TaskData:
    """Read the official splits.

    Raises:
        UserError: a row isn't of the form, or has no description.
    """
    train = [_row(source, mr, [ref]) for mr, ref in _pairs(source, "train")]
    splits = {"train": [{"prompt": row["prompt"], "answer": row["answer"]} for row in train]}
    for split in ("validation", "test"):
        # Rows of equal data needn't stand together; the dict keeps the order of the first of them.
        references: dict[str, list[str]] = {}
        for mr, ref in _pairs(source, split):
            references.setdefault(mr, []).append(ref)
        splits[split] = [_row(source, mr, refs) for mr, refs in references.items()]
    return TaskData(splits, label_names=[])


def _row(source: Source, mr: str, references: list[str]) -> Row:
    prompt = DataRecord({"mr": mr}, f"task={source.task.name}").filled(source.task.prompt)
    return {"prompt": prompt, "answer": f" {references[0]}", "reference": references}


def _pairs(source: Source, split: str) -> list[tuple[str, str]]:
    """LoRA's form of each row's data, and its description."""
    files = {"mr": "mr", "ref": "ref"}
    columns = files if source.has_file(split) else source.task.columns
    pairs = []
    for record in source.records(split):
        if "line" in record:
            mr, _, ref = record["line"].partition("||")
        else:
            mr, ref = as_lora_writes(record, columns["mr"]), record.text(columns["ref"])
        if not ref.strip():
            raise UserError(f"{record.location} has no description.\nIs it another set's file, or cut off?")
        pairs.append((mr.strip(), ref.strip()))
    return pairs


def as_lora_writes(record: DataRecord, column: str) -> str:
    """`name[Cocum], priceRange[£20-25]` as `name : Cocum | price : £ 20 - 25`."""
    text = record.text(column)
    fields = FIELD.findall(text)
    # What no field matches would be lost from the prompt in silence.
    if not fields or FIELD.sub("", text):
        raise UserError(
            f"{record.location} has '{text}' in column '{column}'.\nIt should be as in name[Cocum], area[...]."
        )
    return " | ".join(f"{NAMES.get(name, name)} : {_value(name, value)}" for name, value in fields)


def _value(name: str, value: str) -> str:
    return value.replace("£", "£ ").replace("-", " - ") if name == "priceRange" else value
