r"""Questions of mathematics with worked solutions: GSM8K, MATH, and MetaMathQA, which is trained on and scored on both.

GSM8K (openai/grade-school-math) marks its sums for a calculator and its final number, with commas, by `####`:

    {"question": "Natalia sold clips to 48 of her friends in April, ...", "answer": "Natalia sold 48/2 = <<48/2=24>>24
     clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"}

The marks stay in the answers that are trained on, as in grade-school-math's dataset.py and in yxli2123/LoftQ's
train_gsm8k.py; the papers on MetaMathQA only test on GSM8K, where they have no part. MATH (hendrycks/math) boxes its
final answer, mostly as `\boxed{5}`, sometimes as `\boxed 5`:

    {"problem": "For how many digits $C$ is ...", "solution": "... for $\\boxed{3}$ digits $C$.", ...}

MetaMathQA (meta-math/MetaMathQA) rewrites questions of both training sets; its answers end in "The answer is: 72",
behind a `#### 72` where the question was GSM8K's. Several of its rows rewrite one question, so that rows held out for
validation have close relatives in training.

The prompt is the evaluators' of meta-math/MetaMath (eval_gsm8k.py, eval_math.py) and CERT-Lab/lora-sb
(instruction_tuning_eval). What differs: both train without its last sentence, "Let's think step by step."; here a model
is trained on the prompt that it is asked with. lora-sb's lengths and stop words stand in the yamls.
"""

import re

from src.errors import UserError
from src.metrics.boxed import last_boxed
from src.tasks.base import Row, TaskData
from src.tasks.source import DataRecord, Source

METAMATH_MARK = "The answer is: "
GSM8K_MARK = "####"
PLAIN_MARK = re.compile(r"the answer is\s*:?\s+(?=\S)", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")


def load(source: Source) -> TaskData:
    r"""Read all parts; the rows of a test part "test_<set>" carry its `set`.

    There a reference keeps MATH's \boxed{...}, by which a metric tells its numbers from GSM8K's.
    """
    splits = {
        split: [row for part in source.parts(split) for row in _rows(source, part)] for split in ("train", "test")
    }
    return TaskData(splits, label_names=[])


def _rows(source: Source, part: str) -> list[Row]:
    split, _, name = part.partition("_")
    rows = [_row(record, source, needs_answer=split == "test") for record in source.records(part)]
    return [_of_set(row, name) for row in rows] if split == "test" and name else rows


def _of_set(row: Row, name: str) -> Row:
    boxed = GSM8K_MARK not in row["answer"] and last_boxed(row["answer"]) == row["reference"]
    return row | {"set": name, "reference": f"\\boxed{{{row['reference']}}}" if boxed else row["reference"]}


def _row(record: DataRecord, source: Source, *, needs_answer: bool) -> Row:
    """One question; a training row whose solution has no final answer is scored, if ever, by the whole solution.

    Raises:
        UserError: it needs a final answer and has none.
    """
    column, question = source.task.columns["solution"], record.text(source.task.columns["question"])
    number = record.first(column)
    # A file of bare answers may have them as JSON's numbers.
    solution = str(number) if type(number) in (int, float) else record.text(column)
    prompt = DataRecord({"question": question}, record.location).filled(source.task.prompt)
    # The space is the answer's, as most tokenizers keep it with the word that follows.
    row = {"prompt": prompt, "answer": f" {solution}"}
    answer = final_answer(solution)
    if answer is None and needs_answer:
        raise UserError(
            f"{record.location} has no final answer: '{solution[-60:]}'.\n"
            f"Allowed: '{METAMATH_MARK}...', '{GSM8K_MARK} ...' or '\\boxed{{...}}' in it, or just a number.\n"
            f"If that is not the solution, set task.columns.solution to its column."
        )
    return row if answer is None else row | {"reference": answer}


def final_answer(solution: str) -> str | None:
    """What a solution ends in: a number without commas for GSM8K, LaTeX for MATH; None without a mark of theirs.

    A solution that is a number and nothing else is its own answer.
    """
    # First, since MetaMath's solutions of GSM8K's questions have both marks.
    _, mark, answer = solution.rpartition(METAMATH_MARK)
    if mark:
        return _ended(answer)
    _, mark, number = solution.rpartition(GSM8K_MARK)
    if mark:
        return number.strip().replace(",", "")
    if boxed := last_boxed(solution):
        return boxed
    *_, answer = PLAIN_MARK.split(solution)  # all of it without the mark
    number = _ended(answer)
    return re.sub("[,$%]", "", number) if NUMBER.fullmatch(number) else None


def _ended(answer: str) -> str:
    """An answer without the full stop of its sentence."""
    answer = answer.strip()
    return answer if answer.endswith(r"\right.") else answer.removesuffix(".").strip()
