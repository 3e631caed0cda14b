"""MT-Bench's judging: a strong model rates each of an answer's two turns from 1 to 10.

Zheng et al. 2023, https://arxiv.org/abs/2306.05685v4. The prompts, the choice between them, the reading of the rating
and the files' formats are those of FastChat's single-answer grading,
https://github.com/lm-sys/FastChat/tree/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge. Unlike FastChat,
which leaves an answer without a rating out of the mean and takes any number for one, a missing rating or one outside
1 to 10 is asked for again and then ends the judging; and the references are the given ones, whoever judges.

Every judgment is a line of `judgments.jsonl` as soon as it is had, so a second call asks only for what is missing.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from src.errors import UserError
from src.files import replacing
from src.judging.client import SHOWN_CHARACTERS, Client, JudgeConfig, Stopped

JUDGMENTS, ANSWERS = "judgments.jsonl", "answers.jsonl"
TURNS = (1, 2)
REFERENCE_CATEGORIES = ("math", "reasoning", "coding")  # judged beside a reference answer
LOWEST, HIGHEST = 1.0, 10.0
ASKS = 3  # for one rating, before the judge is given up
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
ONE_BRACKET_RATING = re.compile(r"\[(\d+\.?\d*)\]")
JsonRow = dict[str, Any]
Turns = dict[int, list[str]]  # the text of each turn, by question


@dataclass(frozen=True)
class Judgment:
    """A line of `judgments.jsonl`: FastChat's fields, and `key`, the hash of all that the judgment depends on."""

    question_id: int
    model: str
    judge: tuple[str, str]  # the judge's model and the prompt's name
    user_prompt: str
    judgment: str
    score: float
    turn: int
    tstamp: float
    key: str


@dataclass(frozen=True)
class JudgedScore:
    """The mean over all ratings, and the means of its parts."""

    score: float
    per_turn: dict[int, float]
    per_category: dict[str, float]


@dataclass(frozen=True)
class JudgePrompt:
    """What the judge is to read about one turn of one answer."""

    question_id: int
    turn: int
    name: str
    system: str
    user: str

    def key(self, judge_model: str, model_id: str) -> str:
        """SHA-256 of the judge and the judged, the question and the texts, which hold the answers."""
        return _hash(judge_model, model_id, self.question_id, self.turn, self.system, self.user)


def judge(
    questions: Sequence[JsonRow],
    answers: Turns,
    *,
    config: JudgeConfig,
    prompts: dict[str, JsonRow],
    references: Turns,
    folder: Path,
    model_id: str,
    wait: Callable[[float], object] | None = None,
) -> list[Judgment]:
    """Rate both turns of every answer, and give the ratings in the questions' order, turn 1 before turn 2.

    Args:
        questions: the rows of question.jsonl.
        answers: the judged model's, by question.
        config: the judge.
        prompts: the rows of judge_prompts.jsonl by name; see `read_prompts`.
        references: the reference answers of math, reasoning and coding questions.
        folder: where `judgments.jsonl` is kept and added to.
        model_id: the judged model's name in that file.
        wait: replaces the wait before a retry.

    Raises:
        UserError: the judge can't be reached, refuses or gives no rating, or something to judge is missing. The
            judgments had so far are kept.
    """
    path = folder / JUDGMENTS
    judged = {judgment.key: judgment for judgment in read_judgments(path)}
    asked = {
        prompt.key(config.model, model_id): prompt
        for prompt in judge_prompts(questions, answers, prompts=prompts, references=references)
    }
    missing = {key: prompt for key, prompt in asked.items() if key not in judged}
    if missing:
        for judgment in _ask_all(Client(config, wait=wait), missing, model_id, path):
            judged[judgment.key] = judgment
    return [judged[key] for key in asked]


def judge_prompts(
    questions: Sequence[JsonRow], answers: Turns, *, prompts: dict[str, JsonRow], references: Turns
) -> list[JudgePrompt]:
    """What the judge reads for both turns of every question.

    Raises:
        UserError: a prompt, an answer or a reference is missing.
    """
    made = []
    for question in questions:
        question_id, with_reference = question["question_id"], question["category"] in REFERENCE_CATEGORIES
        fields = _numbered("question", question["turns"], question_id)
        fields |= _numbered("answer", answers.get(question_id, []), question_id)
        if with_reference:
            fields |= _numbered("ref_answer", references.get(question_id, []), question_id)
        fields |= {"question": fields["question_1"], "answer": fields["answer_1"]}
        made += [_judge_prompt(question_id, turn, with_reference, fields, prompts) for turn in TURNS]
    return made


def _numbered(name: str, texts: list[str], question_id: int) -> dict[str, str]:
    """A prompt's fields for the texts of both turns, such as answer_1 and answer_2."""
    if len(texts) != len(TURNS):
        raise UserError(
            f"Question {question_id} has {len(texts)} turns of '{name}'; judging needs {len(TURNS)}.\n"
            "Give both turns of every question."
        )
    return {f"{name}_{turn}": text for turn, text in zip(TURNS, texts, strict=True)}


def _judge_prompt(
    question_id: int, turn: int, with_reference: bool, fields: dict[str, str], prompts: dict[str, JsonRow]
) -> JudgePrompt:
    name = ("single-math-v1" if with_reference else "single-v1") + ("" if turn == 1 else "-multi-turn")
    if name not in prompts:
        raise UserError(f"The judge's prompt '{name}' is missing.\nThere are: {', '.join(sorted(prompts)) or 'none'}.")
    user = prompts[name]["prompt_template"].format(**fields)  # a prompt uses some of the fields
    return JudgePrompt(question_id, turn, name, prompts[name]["system_prompt"], user)


def _ask_all(client: Client, missing: dict[str, JudgePrompt], model_id: str, path: Path) -> list[Judgment]:
    """Ask for all that is missing; when one fails or Ctrl-C is pressed, only what is under way is still waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_cut_line(path)
    writing = threading.Lock()

    def ask(key: str, prompt: JudgePrompt) -> Judgment | None:
        try:
            judgment = _ask(client, key, prompt, model_id)
            with writing:
                _append(path, judgment)
            return judgment
        except Stopped:  # another failed, and tells why
            return None
        except BaseException:
            client.stop()
            raise

    pool = ThreadPoolExecutor(client.config.workers)
    try:
        futures = [pool.submit(ask, key, prompt) for key, prompt in missing.items()]
        return [judgment for future in futures if (judgment := future.result()) is not None]
    finally:
        client.stop()
        pool.shutdown(cancel_futures=True)


def _ask(client: Client, key: str, prompt: JudgePrompt, model_id: str) -> Judgment:
    """One judgment; what holds no rating is asked for again.

    Raises:
        UserError: no rating came.
    """
    for _ in range(ASKS):
        text = client.ask(prompt.system, prompt.user)
        score = read_rating(text)
        if score is not None:
            judge_name = (client.config.model, prompt.name)
            asked = (prompt.question_id, model_id, judge_name, prompt.user)
            return Judgment(*asked, text, score, prompt.turn, time.time(), key)
    raise UserError(
        f"The judge {client.config.model} gave question {prompt.question_id}, turn {prompt.turn}, no rating from "
        f"{LOWEST:g} to {HIGHEST:g} in {ASKS} answers; the last begins:\n{text[:SHOWN_CHARACTERS]!r}\n"
        "The judgments had so far are kept. Start again to ask for the rest, or set task.judge.model to another judge."
    )


def read_rating(text: str) -> float | None:
    """The rating in a judge's answer, `[[7]]` or else `[7]`; None where there is none or it is out of range."""
    match = RATING.search(text) or ONE_BRACKET_RATING.search(text)
    rating = float(match.group(1)) if match else 0.0
    return rating if LOWEST <= rating <= HIGHEST else None


def mean_scores(judgments: Sequence[Judgment], questions: Sequence[JsonRow]) -> JudgedScore:
    """The mean over both turns of all questions, and the means per turn and per category.

    Raises:
        UserError: a question's turn isn't rated, so the mean would be of something else.
    """
    category = {question["question_id"]: question["category"] for question in questions}
    rated = sorted((judgment.question_id, judgment.turn) for judgment in judgments)
    if not rated or rated != sorted((question_id, turn) for question_id in category for turn in TURNS):
        raise UserError(
            f"{len(rated)} ratings aren't those of both turns of {len(questions)} questions, so they give no score.\n"
            "Judge all questions."
        )
    return JudgedScore(
        score=fmean(one.score for one in judgments),
        per_turn={turn: fmean(one.score for one in judgments if one.turn == turn) for turn in TURNS},
        per_category={
            name: fmean(one.score for one in judgments if category[one.question_id] == name)
            for name in dict.fromkeys(category.values())
        },
    )


def read_rows(path: Path) -> list[JsonRow]:
    """The rows of a jsonl file, such as question.jsonl.

    Raises:
        UserError: it isn't there, or holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines also splits inside a text
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as JSON lines ({error}).\nFetch it again, or name another.") from error


def read_prompts(path: Path) -> dict[str, JsonRow]:
    """The judge's prompts of FastChat's judge_prompts.jsonl, by name."""
    return {row["name"]: row for row in read_rows(path)}


def read_answers(path: Path) -> Turns:
    """The answers, or reference answers, of a file in FastChat's format, by question."""
    return {row["question_id"]: row["choices"][0]["turns"] for row in read_rows(path)}


def write_answers(path: Path, answers: Turns, model_id: str) -> None:
    """Write the answers whole or not at all, in the format that FastChat's judge reads as model_answer."""
    now = time.time()
    rows = [
        {
            "question_id": question_id,
            "answer_id": _hash(model_id, question_id, turns)[:22],
            "model_id": model_id,
            "choices": [{"index": 0, "turns": turns}],
            "tstamp": now,
        }
        for question_id, turns in answers.items()
    ]
    with replacing(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_judgments(path: Path) -> list[Judgment]:
    """The judgments of a file, without a last line that was cut off; none where there is no file.

    Raises:
        UserError: a whole line isn't a judgment.
    """
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        return [Judgment(**{**row, "judge": tuple(row["judge"])}) for row in rows]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} holds a line that is no judgment ({error}).\nDelete it to judge again.") from error


def _append(path: Path, judgment: Judgment) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(judgment), allow_nan=False) + "\n")


def _drop_cut_line(path: Path) -> None:
    """Remove a last line that was cut off, which the next line would otherwise continue."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
