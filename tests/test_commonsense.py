"""The commonsense sets: LLM-Adapters' own files, and the same text from the original data sets' columns."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.tasks.base import LoadedTask, load_task
from src.tasks.commonsense import ORIGINALS, load
from src.tasks.source import DataRecord, Source
from tests.conftest import as_on_the_hub, composed, real_data

PROMPT = (  # CERT-Lab/lora-sb, instruction_tuning_eval/commonsense_eval.py, without its last newline
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
MODEL = ["model=llama2_7b", "tracking=none"]
FOLDERS = {
    "boolq": "boolq",
    "piqa": "piqa",
    "social_i_qa": "social_i_qa",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "openbookqa": "openbookqa",
}
# Rows and answers of each real file, as SOURCES.md has them.
FILES = {
    ("boolq", "train"): {"false": 3553, "true": 5874},
    ("boolq", "test"): {"false": 1237, "true": 2033},
    ("piqa", "test"): {"solution1": 910, "solution2": 928},
    ("social_i_qa", "test"): {"answer1": 643, "answer2": 654, "answer3": 657},
    ("winogrande", "test"): {"option1": 628, "option2": 639},
    ("arc_easy", "train"): {"answer1": 548, "answer2": 588, "answer3": 578, "answer4": 535, "answer5": 2},
    ("arc_easy", "test"): {"answer1": 596, "answer2": 585, "answer3": 633, "answer4": 561, "answer5": 1},
    ("arc_challenge", "train"): {"answer1": 239, "answer2": 296, "answer3": 291, "answer4": 293},
    ("arc_challenge", "test"): {"answer1": 266, "answer2": 311, "answer3": 310, "answer4": 285},
    ("openbookqa", "train"): {"answer1": 1378, "answer2": 1212, "answer3": 1146, "answer4": 1221},
    ("openbookqa", "test"): {"answer1": 138, "answer2": 126, "answer3": 132, "answer4": 104},
}
PARTS = [pytest.param(name, split, id=f"{name}-{split}") for name, split in FILES]
HELLASWAG = {  # the validation split's first row; its LLM-Adapters form is HELLASWAG_TEXT
    "activity_label": "Roof shingle removal",
    "ctx": "A man is sitting on a roof. he",
    "endings": [
        "is using wrap to wrap a pair of skis.",
        "is ripping level tiles off.",
        "is holding a rubik's cube.",
        "starts pulling up roofing on a roof.",
    ],
    "label": "3",
}
HELLASWAG_TEXT = (
    "Please choose the correct ending to complete the given sentence: Roof shingle removal: A man is sitting on a roof."
    " he\n\nEnding1: is using wrap to wrap a pair of skis. Ending2: is ripping level tiles off. Ending3: is holding a"
    " rubik's cube. Ending4: starts pulling up roofing on a roof.\n\nAnswer format: ending1/ending2/ending3/ending4"
)
ROW = {
    "instruction": "Please answer the following question with true or false, question: is ice cold?\n\n"
    "Answer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}


def published(name: str, split: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(real_data(f"commonsense/{FOLDERS[name]}/{split}.json").read_text("utf-8"))
    return rows


def matched(pattern: str, row: dict[str, str]) -> list[str]:
    """The groups of a row's instruction, all of which it must be made of."""
    match = re.fullmatch(pattern, row["instruction"], re.DOTALL)
    assert match, row
    return list(match.groups())


def number(row: dict[str, str]) -> int:
    return int(row["answer"][-1])


def boolq(row: dict[str, str]) -> dict[str, Any]:
    (question,) = matched(
        r"Please answer the following question with true or false, question: (.*)\?\n\nAnswer format: true/false", row
    )
    return {"question": question, "answer": {"true": True, "false": False}[row["answer"]], "passage": "left out"}


def piqa(row: dict[str, str]) -> dict[str, Any]:
    goal, *solutions = matched(
        r"Please choose the correct solution to the question: (.*)\n\nSolution1: (.*)\n\nSolution2: (.*)\n\n"
        r"Answer format: solution1/solution2",
        row,
    )
    return {"goal": goal, "sol1": solutions[0], "sol2": solutions[1], "label": number(row) - 1}


def social_i_qa(row: dict[str, str]) -> dict[str, Any]:
    asked, *answers = matched(
        r"Please choose the correct answer to the question: (.*)\n\nAnswer1: (.*) Answer2: (.*) Answer3: (.*)\n\n"
        r"Answer format: answer1/answer2/answer3",
        row,
    )
    context, question = asked.split(" ", 1)  # wherever the context ends, a space follows it
    named = dict(zip(("answerA", "answerB", "answerC"), answers, strict=True))
    return {"context": context, "question": question, **named, "label": str(number(row))}


def winogrande(row: dict[str, str]) -> dict[str, Any]:
    sentence, *options = matched(
        r"Please choose the correct answer to fill in the blank to complete the given sentence: (.*)\n\n"
        r"Option1: (.*) Option2: (.*) Answer format: option1/option2",
        row,
    )
    return {"sentence": sentence, "option1": options[0], "option2": options[1], "answer": str(number(row))}


def lettered(row: dict[str, str], column: str) -> dict[str, Any]:
    count = row["instruction"].rpartition(": ")[2].count("/") + 1
    listed = " ".join(rf"Answer{place}: (.*)" for place in range(1, count + 1))
    allowed = "/".join(f"answer{place}" for place in range(1, count + 1))
    asked, *texts = matched(
        rf"Please choose the correct answer to the question: (.*)\n\n{listed}\n\nAnswer format: {allowed}", row
    )
    letters = "ABCDE"[:count] if len(asked) % 2 else "12345"[:count]  # both kinds of labels are there
    return {column: asked, "choices": {"text": texts, "label": [*letters]}, "answerKey": letters[number(row) - 1]}


PARSERS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "boolq": boolq,
    "piqa": piqa,
    "social_i_qa": social_i_qa,
    "winogrande": winogrande,
    "arc_easy": lambda row: lettered(row, "question"),
    "arc_challenge": lambda row: lettered(row, "question"),
    "openbookqa": lambda row: lettered(row, "question_stem"),
}


def loaded(root: Path, *overrides: str) -> LoadedTask:
    return load_task(composed(*MODEL, f"task.data_dir={root}", *overrides))


def folder_with(root: Path, name: str, train: str, test: str) -> Path:
    """A data folder with a set's two files."""
    (root / "commonsense" / FOLDERS[name]).mkdir(parents=True)
    for split, text in (("train", train), ("test", test)):
        (root / "commonsense" / FOLDERS[name] / f"{split}.json").write_text(text)
    return root


@pytest.fixture(scope="module")
def arc_easy() -> LoadedTask:
    return loaded(real_data("commonsense/ARC-Easy/train.json").parents[2], "task=arc_easy")


@pytest.mark.parametrize(("name", "split"), PARTS)
def test_every_row_of_a_file_becomes_a_prompt_and_its_output(name: str, split: str, tmp_path: Path) -> None:
    raw = published(name, split)
    overrides = [f"task={name}", f"task.data_dir={real_data('commonsense').parent}"]
    other = {"train": "test", "test": "train"}[split]  # the other file may be missing: read this one twice
    overrides += [f"task.sources.{other}.file=commonsense/{FOLDERS[name]}/{split}.json"]
    rows = load(Source(composed(*MODEL, *overrides).task, tmp_path), set_name=name).splits[split]
    assert Counter(row["reference"] for row in rows) == FILES[name, split]
    assert rows == [
        {
            "prompt": PROMPT.format(instruction=item["instruction"]),
            "answer": "\n" + item["output"],
            "reference": item["answer"],
        }
        for item in raw
    ]


@pytest.mark.parametrize(("name", "split"), PARTS)
def test_the_original_columns_are_put_into_llm_adapters_words(name: str, split: str) -> None:
    for row in published(name, split):
        assert ORIGINALS[name](DataRecord(PARSERS[name](row), "here")) == (row["instruction"], row["answer"])


def test_hellaswags_columns_are_put_into_llm_adapters_words() -> None:
    assert ORIGINALS["hellaswag"](DataRecord(HELLASWAG, "here")) == (HELLASWAG_TEXT, "ending4")


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_both_sources_give_the_same_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = published(name, "test")
    train, test = rows[:40], rows[40:80]
    root = folder_with(tmp_path / "files", name, json.dumps(train), json.dumps(test))
    few = [*MODEL, f"task={name}", "task.validation_size=5"]
    from_files = loaded(root, *few)
    assert [len(split) for split in from_files.data.splits.values()] == [35, 5, 40]
    sources = composed(*few).task.sources
    hub = {
        sources["train"].split or "": [PARSERS[name](row) for row in train],
        sources["test"].split or "": [PARSERS[name](row) for row in test],
    }
    as_on_the_hub(tmp_path / "hub", monkeypatch, hub, config=sources["train"].hub_config or "default")
    assert load_task(composed(*few)).fingerprint == from_files.fingerprint


def test_the_held_out_rows_are_training_rows_by_their_text_alone(arc_easy: LoadedTask) -> None:
    splits = arc_easy.data.splits
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [2251 - 250, 250, 2376]
    prompts = {PROMPT.format(instruction=row["instruction"]) for row in published("arc_easy", "train")}
    held_out = {row["prompt"] for row in splits["validation"]}
    assert held_out <= prompts
    assert not held_out & {row["prompt"] for row in splits["train"]}


def test_arc_easys_two_questions_of_both_files_are_reported(arc_easy: LoadedTask) -> None:
    train, test = ({row["instruction"] for row in published("arc_easy", split)} for split in ("train", "test"))
    assert len(train & test) == 2
    assert arc_easy.overlaps["test"].exact == arc_easy.overlaps["test"].normalised == 2
    assert arc_easy.overlaps["validation"].normalised == 0


def test_papers_validate_on_the_test_set() -> None:
    root = real_data("commonsense/ARC-Challenge/train.json").parents[2]
    splits = loaded(root, "task=arc_challenge", "protocol=paper").data.splits
    assert len(splits["train"]) == 1119
    assert splits["validation"] == splits["test"]


def test_the_mixture_is_tested_on_each_set_by_name(tmp_path: Path) -> None:
    present = ["boolq", "piqa", "social_i_qa", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]
    mixture = [row for name in ("boolq", "arc_easy", "openbookqa") for row in published(name, "train")]
    (tmp_path / "commonsense").mkdir()
    (tmp_path / "commonsense/commonsense_170k.json").write_text(json.dumps(mixture))
    for name in present:
        (tmp_path / "commonsense" / FOLDERS[name]).symlink_to(real_data(f"commonsense/{FOLDERS[name]}"))
    splits = loaded(tmp_path, "task=commonsense_170k", "~task.sources.test_hellaswag").data.splits
    assert len(splits["train"]) + len(splits["validation"]) == len(mixture) == 9427 + 2251 + 4957
    sizes = {name: sum(FILES[name, "test"].values()) for name in present}
    assert Counter(row["set"] for row in splits["test"]) == sizes
    assert not any("set" in row for row in splits["train"])


def test_the_mixtures_test_sets_come_from_the_hub_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [f"~task.sources.test_{name}" for name in FOLDERS if name != "hellaswag"]
    few = [*MODEL, "task=commonsense_170k", "task.validation_size=1", *others]
    few += [f"task.data_dir={tmp_path}", "task.sources.test_hellaswag.file=null"]
    (tmp_path / "commonsense").mkdir()
    (tmp_path / "commonsense/commonsense_170k.json").write_text(json.dumps([ROW] * 3))
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"validation": [HELLASWAG]})
    splits = load_task(composed(*few)).data.splits
    assert splits["train"][0] == {
        "prompt": PROMPT.format(instruction=ROW["instruction"]),
        "answer": "\nthe correct answer is true",
        "reference": "true",
    }
    assert splits["test"] == [
        {
            "prompt": PROMPT.format(instruction=HELLASWAG_TEXT),
            "answer": "\nthe correct answer is ending4",
            "reference": "ending4",
            "set": "hellaswag",
        }
    ]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            json.dumps([ROW, ROW | {"answer": "answer7"}]),
            r"test.json, item 1 has the label 'answer7' in column 'answer'",
        ),
        (
            json.dumps([ROW | {"output": "the correct answer is false"}]),
            r"item 0 has the answer 'true', but the output",
        ),
        (json.dumps([ROW | {"instruction": "Is ice cold?"}]), r"item 0 has an instruction without 'Answer format: "),
        (json.dumps([{"question": "is ice cold", "answer": "true"}]), r"item 0 has no column 'instruction'"),
        ("[]", r"test.json has no rows"),
        (json.dumps([ROW])[:40], r"test.json:1 is not complete JSON"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, test: str, message: str) -> None:
    root = folder_with(tmp_path, "boolq", json.dumps([ROW]), test)
    with pytest.raises(UserError, match=message):
        loaded(root, "task=boolq")


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("hellaswag", HELLASWAG | {"label": ""}, r"the label '' in column 'label'"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, r"the label '-1' in column 'label'"),
        ("winogrande", {"sentence": "_", "option1": "a", "option2": "b", "answer": "3"}, r"the label '3'"),
        ("boolq", {"question": "is ice cold", "answer": None}, r"the label 'None' in column 'answer'"),
        ("openbookqa", {"question_stem": "q", "answerKey": "A"}, r"no column 'choices'"),
        (
            "arc_easy",
            {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "C"},
            r"the label 'C' in column 'answerKey'",
        ),
    ],
)
def test_a_label_that_is_no_choice_is_refused(name: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"some place has {message}"):
        ORIGINALS[name](DataRecord(record, "some place"))


def test_a_folder_without_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"commonsense/hellaswag/train.json doesn't exist"):
        loaded(tmp_path, "task=hellaswag")


def test_an_unknown_set_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the commonsense set 'arc'\.\nAllowed: arc_easy"):
        loaded(tmp_path, "task=arc_easy", "task.options.set_name=arc")
