r"""The eight commonsense sets of LLM-Adapters (Hu et al., 2023) as instructions, and their mixture commonsense_170k.

A raw example (AGI-Edgerunners/LLM-Adapters, dataset/openbookqa/test.json):

    {"instruction": "Please choose the correct answer to the question: Predators eat\n\nAnswer1: lions Answer2: humans
     Answer3: bunnies Answer4: grass\n\nAnswer format: answer1/answer2/answer3/answer4", "input": "",
     "output": "the correct answer is answer3", "answer": "answer3"}

The original files have these; the hub has the eight data sets as their authors published them, which are put into the
same words here. Quirks that are kept: PIQA's solutions stand in paragraphs, WinoGrande's format on the line of its
options, BoolQ comes without its passage, ARC has three to five choices. What differs: LLM-Adapters' WinoGrande training
file is the six sizes of that set one after another, 63,238 rows; the hub's largest size, 40,398 rows, holds the others.

The prompt is alpaca's, as in commonsense_eval.py of CERT-Lab/lora-sb. LLM-Adapters means the same one, but trains
(finetune.py) and tests (commonsense_evaluate.py) with different numbers of spaces at its lines' beginnings and ends.
Answers are read as in commonsense_evaluate.py: see src/metrics/choice.
"""

from collections.abc import Callable

from src.errors import UserError, nearest_first
from src.tasks.base import Row, TaskData
from src.tasks.source import DataRecord, Source

QUESTION = "Please choose the correct answer to the question: "
FORMAT = "Answer format: "


def load(source: Source, *, set_name: str | None = None) -> TaskData:
    """Read all parts; the rows of a test part "test_<set>" carry its `set`.

    Args:
        set_name: the set that the parts without a set's name come from; None for LLM-Adapters' mixture.

    Raises:
        UserError: a set is none of the eight.
    """
    splits = {
        split: [row for part in source.parts(split) for row in _rows(source, part, set_name)]
        for split in ("train", "test")
    }
    return TaskData(splits, label_names=[])


def _rows(source: Source, part: str, set_name: str | None) -> list[Row]:
    split, _, part_name = part.partition("_")
    name = part_name or set_name
    if name is not None and name not in ORIGINALS:
        allowed = ", ".join(nearest_first(name, ORIGINALS))
        raise UserError(f"task={source.task.name} asks for the commonsense set '{name}'.\nAllowed: {allowed}.")
    # Files are LLM-Adapters' own; on the hub a set is as its authors published it.
    read = as_published if source.has_file(part) or name is None else ORIGINALS[name]
    # Training rows of several sets are one mixture; test rows are scored set by set.
    named = {"set": part_name} if split == "test" and part_name else {}
    rows = []
    for record in source.records(part):
        instruction, answer = read(record)
        prompt = DataRecord({"instruction": instruction}, record.location).filled(source.task.prompt)
        rows.append({"prompt": prompt, "answer": f"\nthe correct answer is {answer}", "reference": answer} | named)
    return rows


def as_published(record: DataRecord) -> tuple[str, str]:
    """The instruction and the answer of a record of LLM-Adapters.

    Raises:
        UserError: its answer is none of those that the instruction allows, or its output says otherwise.
    """
    instruction, output = record.text("instruction"), record.text("output")
    _, marker, choices = instruction.rpartition(FORMAT)
    if not marker:
        raise UserError(
            f"{record.location} has an instruction without '{FORMAT}...' at its end: '{instruction[-60:]}'."
        )
    names = choices.split("/")
    answer = names[record.label("answer", names)]
    if output != f"the correct answer is {answer}":
        raise UserError(f"{record.location} has the answer '{answer}', but the output '{output}'.\nOne must be wrong.")
    return instruction, answer


def _boolq(record: DataRecord) -> tuple[str, str]:
    asked = f"Please answer the following question with true or false, question: {record.text('question')}?"
    return f"{asked}\n\n{FORMAT}true/false", ("false", "true")[_right(record, "answer", ["False", "True"])]


def _piqa(record: DataRecord) -> tuple[str, str]:
    asked = f"Please choose the correct solution to the question: {record.text('goal')}"
    solutions = [record.text("sol1"), record.text("sol2")]
    return _choose(asked, "Solution", solutions, _right(record, "label", ["0", "1"]), between="\n\n")


def _social_i_qa(record: DataRecord) -> tuple[str, str]:
    asked = f"{QUESTION}{record.text('context')} {record.text('question')}"
    answers = [record.text("answerA"), record.text("answerB"), record.text("answerC")]
    return _choose(asked, "Answer", answers, _right(record, "label", ["1", "2", "3"]))


def _hellaswag(record: DataRecord) -> tuple[str, str]:
    sentence = f"{record.text('activity_label')}: {record.text('ctx')}"
    asked = f"Please choose the correct ending to complete the given sentence: {sentence}"
    return _choose(asked, "Ending", record["endings"], _right(record, "label", ["0", "1", "2", "3"]))


def _winogrande(record: DataRecord) -> tuple[str, str]:
    sentence = record.text("sentence")
    asked = f"Please choose the correct answer to fill in the blank to complete the given sentence: {sentence}"
    options = [record.text("option1"), record.text("option2")]
    return _choose(asked, "Option", options, _right(record, "answer", ["1", "2"]), before_format=" ")


def _arc(record: DataRecord) -> tuple[str, str]:
    return _lettered(record, record.text("question"))


def _openbookqa(record: DataRecord) -> tuple[str, str]:
    return _lettered(record, record.text("question_stem"))


def _lettered(record: DataRecord, question: str) -> tuple[str, str]:
    """A question of AI2's, whose choices are labeled A, B, C, D or 1, 2, 3, 4."""
    choices = record["choices"]
    return _choose(QUESTION + question, "Answer", choices["text"], _right(record, "answerKey", choices["label"]))


def _right(record: DataRecord, column: str, names: list[str]) -> int:
    """The right choice's index; labels are strings, numbers or booleans, depending on who published the set."""
    return DataRecord({column: str(record[column]).strip()}, record.location).label(column, names)


# LLM-Adapters separates choices and format otherwise in some sets, which the two keywords are for.
def _choose(
    asked: str, kind: str, choices: list[str], right: int, *, between: str = " ", before_format: str = "\n\n"
) -> tuple[str, str]:
    names = [f"{kind}{number}" for number in range(1, len(choices) + 1)]
    listed = between.join(f"{name}: {choice}" for name, choice in zip(names, choices, strict=True))
    allowed = "/".join(names).lower()
    return f"{asked}\n\n{listed}{before_format}{FORMAT}{allowed}", names[right].lower()


ORIGINALS: dict[str, Callable[[DataRecord], tuple[str, str]]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "social_i_qa": _social_i_qa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "openbookqa": _openbookqa,
}
