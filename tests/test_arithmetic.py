"""GSM8K, MATH and MetaMathQA as prompts and answers: from the real files, and from the hub's form of the same rows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config
from src.errors import UserError
from src.metrics import score
from src.metrics.boxed import last_boxed
from src.tasks.arithmetic import final_answer, load
from src.tasks.base import LoadedTask, TaskData, load_task
from src.tasks.source import Source
from tests.conftest import as_on_the_hub, composed, real_data

PROMPT = (  # meta-math/MetaMath, eval_gsm8k.py
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response: Let's think step by step."
)
MODEL = ["model=llama2_7b", "tracking=none"]
SUBJECTS = {"algebra": 1744, "counting_and_probability": 771, "number_theory": 869, "prealgebra": 1205}  # SOURCES.md
MISSING = [f"~task.sources.train_{subject}" for subject in ("geometry", "intermediate_algebra", "precalculus")]
METAMATH = [
    {
        "query": f"If {number} cats have four legs each, how many legs are there?",
        "response": f"They have $4 \\times {number}$ legs.\n#### {4 * number}\nThe answer is: {4 * number}",
        "original_question": "How many legs do the cats have?",
        "type": "GSM_Rephrased",
    }
    for number in range(1, 601)
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loaded(root: Path, *overrides: str) -> LoadedTask:
    return load_task(composed(*MODEL, f"task.data_dir={root}", *overrides))


def on_the_hub(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    """Let tasks find several data sets, by their ids."""
    monkeypatch.setattr("src.tasks.source.hub_folder", lambda hub_id, *args, **kwargs: folders[hub_id])


def read(config: Config, tmp_path: Path) -> TaskData:
    """The loader's own splits, before validation is held out."""
    return load(Source(config.task, tmp_path))


@pytest.fixture(scope="module")
def gsm8k() -> LoadedTask:
    return loaded(real_data("gsm8k/train.jsonl").parents[1], "task=gsm8k")


@pytest.fixture(scope="module")
def math() -> LoadedTask:
    return loaded(real_data("math/math500_test.jsonl").parents[1], "task=math", *MISSING)


def test_gsm8k_has_its_published_size_and_one_number_an_item(gsm8k: LoadedTask) -> None:
    rows = gsm8k.data.splits
    assert [len(rows[split]) for split in ("train", "validation", "test")] == [7473 - 500, 500, 1319]
    assert all(re.fullmatch(r"-?\d+", row["reference"]) for split in rows.values() for row in split)


def test_a_gsm8k_row_is_the_evaluators_prompt_the_whole_solution_and_its_number(gsm8k: LoadedTask) -> None:
    raw = lines(real_data("gsm8k/test.jsonl"))[2]
    row = gsm8k.data.splits["test"][2]
    assert re.search(r"80000\+50000=130000>>.*\n#### 70000$", raw["answer"], re.DOTALL)
    assert row == {
        "prompt": PROMPT.format(instruction=raw["question"]),
        "answer": " " + raw["answer"],
        "reference": "70000",
    }


def test_gsm8ks_numbers_lose_their_commas() -> None:
    assert final_answer("a lot <<1000*1000=1000000>>1,000,000\n#### -1,080") == "-1080"


def test_both_forms_of_gsm8k_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {split: lines(real_data(f"gsm8k/{split}.jsonl"))[:40] for split in ("train", "test")}
    (tmp_path / "files/gsm8k").mkdir(parents=True)
    for split, items in rows.items():
        (tmp_path / f"files/gsm8k/{split}.jsonl").write_text("\n".join(map(json.dumps, items)))
    as_on_the_hub(tmp_path / "hub", monkeypatch, rows, config="main")
    few = [*MODEL, "task=gsm8k", "task.validation_size=5"]
    from_hub = load_task(composed(*few))
    assert loaded(tmp_path / "files", *few).fingerprint == from_hub.fingerprint
    assert [len(split) for split in from_hub.data.splits.values()] == [35, 5, 40]


def test_strict_validation_comes_out_of_training_and_papers_validate_on_test(gsm8k: LoadedTask) -> None:
    splits = gsm8k.data.splits
    prompts = {split: {row["prompt"] for row in rows} for split, rows in splits.items()}
    assert not prompts["validation"] & (prompts["train"] | prompts["test"])
    questions = {PROMPT.format(instruction=raw["question"]) for raw in lines(real_data("gsm8k/train.jsonl"))}
    assert prompts["validation"] | prompts["train"] == questions
    paper = loaded(real_data("gsm8k").parent, "task=gsm8k", "protocol=paper").data.splits
    assert len(paper["train"]) == 7473
    assert paper["validation"] == paper["test"] == splits["test"]


def test_math_has_its_published_sizes(math: LoadedTask) -> None:
    rows = math.data.splits
    assert [len(rows[split]) for split in ("train", "validation", "test")] == [sum(SUBJECTS.values()) - 500, 500, 500]
    assert all("set" not in row for row in rows["test"])


def test_a_math_row_is_the_evaluators_prompt_the_solution_and_its_boxed_answer(math: LoadedTask) -> None:
    raw = lines(real_data("math/math500_test.jsonl"))[0]
    assert raw["answer"] == r"\left( 3, \frac{\pi}{2} \right)"
    assert math.data.splits["test"][0] == {
        "prompt": PROMPT.format(instruction=raw["problem"]),
        "answer": " " + raw["solution"],
        "reference": raw["answer"],
    }


@pytest.mark.parametrize("file", ["math500_test.jsonl", *(f"subjects_alpaca/{name}/train.jsonl" for name in SUBJECTS)])
def test_what_is_boxed_is_the_answer_that_the_files_give(file: str) -> None:
    rows = lines(real_data(f"math/{file}"))
    solutions = [row.get("solution") or row["output"] for row in rows]
    assert [last_boxed(solution) for solution in solutions] == [row["answer"] for row in rows]


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{2}{3}}.", r"\frac{2}{3}"),
        (r"so $\boxed 9$", "9"),
        (r"\boxed {17}", "17"),
        (r"\fbox{4}", "4"),
        (r"\boxed{4", None),
        ("four", None),
        (r"$\boxed{72}$\n#### 7,2" + "\nThe answer is: 72 ", "72"),
        ("The answer is 4.", "4"),
        ("5 - 1 is 4. The answer is 4", "4"),
        ("THE ANSWER IS: $1,080.50.", "1080.50"),
        ("The answer is: 4.", "4"),
        (r"The answer is: \left. x \right.", r"\left. x \right."),
        ("The answer is -3/4.", "-3/4"),
        ("4", "4"),
        (" 4.0 ", "4.0"),
        ("-1,080", "-1080"),
        ("50%", "50"),
        ("The answer is clear.", None),
        ("4 apples", None),
        ("It is 4", None),
    ],
)
def test_the_final_answer_is_the_last_one_marked(solution: str, answer: str | None) -> None:
    assert final_answer(solution) == answer


def test_both_forms_of_math_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = lines(real_data("math/subjects_alpaca/algebra/train.jsonl"))[:40]
    test = lines(real_data("math/math500_test.jsonl"))[:40]
    (tmp_path / "files/math/subjects_alpaca/algebra").mkdir(parents=True)
    (tmp_path / "files/math/math500_test.jsonl").write_text("\n".join(map(json.dumps, test)))
    rekeyed = tmp_path / "files/math/subjects_alpaca/algebra/train.jsonl"
    rekeyed.write_text("\n".join(map(json.dumps, train)))
    official = [
        {"problem": row["input"], "level": "Level 1", "type": "Algebra", "solution": row["output"]} for row in train
    ]
    others = [f"~task.sources.train_{subject}" for subject in SUBJECTS if subject != "algebra"]
    few = [*MODEL, "task=math", "task.validation_size=5", *MISSING, *others]
    from_files = loaded(tmp_path / "files", *few)
    assert [len(split) for split in from_files.data.splits.values()] == [35, 5, 40]
    on_the_hub(
        monkeypatch,
        {
            "EleutherAI/hendrycks_math": as_on_the_hub(tmp_path / "a", monkeypatch, {"train": official}, "algebra"),
            "HuggingFaceH4/MATH-500": as_on_the_hub(tmp_path / "b", monkeypatch, {"test": test}),
        },
    )
    assert load_task(composed(*few)).fingerprint == from_files.fingerprint


def metamath_files(root: Path) -> Path:
    """A folder with made-up training rows of MetaMathQA and the real test sets."""
    (root / "metamathqa").mkdir(parents=True)
    (root / "metamathqa/MetaMathQA-395K.json").write_text(json.dumps(METAMATH))
    for folder in ("gsm8k", "math"):
        (root / folder).symlink_to(real_data(folder))
    return root


def test_metamathqa_is_tested_on_both_sets_by_name(tmp_path: Path) -> None:
    splits = loaded(metamath_files(tmp_path / "root"), "task=metamathqa").data.splits
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [100, 500, 1319 + 500]
    assert [row["set"] for row in splits["test"]] == ["gsm8k"] * 1319 + ["math"] * 500
    assert [splits["test"][index]["reference"] for index in (0, 1319)] == [
        "18",
        r"\boxed{\left( 3, \frac{\pi}{2} \right)}",
    ]
    row = next(row for row in splits["train"] + splits["validation"] if " 7 cats " in row["prompt"])
    assert row == {
        "prompt": PROMPT.format(instruction="If 7 cats have four legs each, how many legs are there?"),
        "answer": " They have $4 \\times 7$ legs.\n#### 28\nThe answer is: 28",
        "reference": "28",
    }


def test_both_forms_of_metamathqa_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_files = loaded(metamath_files(tmp_path / "root"), "task=metamathqa", "~task.sources.test_math")
    test = lines(real_data("gsm8k/test.jsonl"))
    on_the_hub(
        monkeypatch,
        {
            "openai/gsm8k": as_on_the_hub(tmp_path / "a", monkeypatch, {"test": test}, "main"),
            "meta-math/MetaMathQA": as_on_the_hub(tmp_path / "b", monkeypatch, {"train": METAMATH}),
        },
    )
    from_hub = load_task(composed(*MODEL, "task=metamathqa", "~task.sources.test_math"))
    assert from_hub.fingerprint == from_files.fingerprint


def test_one_metric_scores_the_answers_of_both_sets() -> None:
    written = ["The answer is: 1,080", "The answer is: 18 eggs", r"The answer is: \dfrac12", "The answer is: 18 eggs"]
    assert score(composed(*MODEL, "task=metamathqa").task.metric, written,
                 ["1080", "18", r"\boxed{\frac{1}{2}}", r"\boxed{18}"]).items == [1, 1, 1, 0]  # fmt: skip


def test_metamathqas_own_answers_score_full_marks_on_both_sets(tmp_path: Path) -> None:
    rows = loaded(metamath_files(tmp_path / "root"), "task=metamathqa").data.splits["test"]
    written = [f"so ... The answer is: {last_boxed(row['reference']) or row['reference']}" for row in rows]
    references = [row["reference"] for row in rows]
    assert score("metamath", written, references).value == 1
    assert score("metamath", [f"{text}7" for text in written], references).value < 0.01


@pytest.mark.parametrize("answer", ["The answer is 4.", "4", 4, 4.0])
def test_a_file_of_short_answers_is_read(tmp_path: Path, answer: Any) -> None:
    row = json.dumps({"question": "2 + 2?", "answer": answer})
    root = gsm8k_folder(tmp_path / "data", row, row)
    splits = read(composed(*MODEL, "task=gsm8k", f"task.data_dir={root}"), tmp_path).splits
    assert splits["train"] == splits["test"]
    assert splits["test"][0]["answer"] == f" {answer}"
    assert float(splits["test"][0]["reference"]) == 4


@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_the_solutions_themselves_score_full_marks(task: str, request: pytest.FixtureRequest) -> None:
    rows = request.getfixturevalue(task).data.splits["test"]
    metric = composed(*MODEL, f"task={task}").task.metric
    assert score(metric, [row["answer"] for row in rows], [row["reference"] for row in rows]).value == 1


def gsm8k_folder(root: Path, train: str, test: str) -> Path:
    (root / "gsm8k").mkdir(parents=True)
    (root / "gsm8k/train.jsonl").write_text(train)
    (root / "gsm8k/test.jsonl").write_text(test)
    return root


GOOD = json.dumps({"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"})


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (json.dumps({"question": "1 + 1?", "answer": "It is 2."}), r"test.jsonl:1 has no final answer: 'It is 2.'"),
        (json.dumps({"problem": "1 + 1?", "answer": "#### 2"}), r"test.jsonl:1 has no column 'question'"),
        (f"{GOOD}\n{GOOD[:30]}", r"test.jsonl:2 is not complete JSON"),
        ("", r"test.jsonl has no rows"),
    ],
)
def test_a_bad_test_file_is_refused_with_its_place(tmp_path: Path, test: str, message: str) -> None:
    root = gsm8k_folder(tmp_path / "data", f"{GOOD}\n", test)
    with pytest.raises(UserError, match=message):
        read(composed(*MODEL, "task=gsm8k", f"task.data_dir={root}"), tmp_path)


def test_a_training_solution_may_lack_a_marked_answer(tmp_path: Path) -> None:
    root = gsm8k_folder(tmp_path / "data", json.dumps({"question": "1 + 1?", "answer": "It is 2."}), GOOD)
    splits = read(composed(*MODEL, "task=gsm8k", f"task.data_dir={root}"), tmp_path).splits
    assert "reference" not in splits["train"][0]
    assert splits["test"][0]["reference"] == "2"


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gsm8k/train.jsonl doesn't exist"):
        loaded(tmp_path, "task=gsm8k")


def test_a_prompt_that_asks_for_another_column_is_refused(tmp_path: Path) -> None:
    root = gsm8k_folder(tmp_path / "data", GOOD, GOOD)
    with pytest.raises(UserError, match=r"no column 'instruction'"):
        read(composed(*MODEL, "task=gsm8k", f"task.data_dir={root}", "task.prompt='{instruction}'"), tmp_path)


def test_metamathqa_can_be_trained_on_its_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": METAMATH, "test": METAMATH[:3]})
    only = ["task=metamathqa", "~task.sources.test_math", "task.sources.test_gsm8k.hub_config=default"]
    config = composed(*MODEL, *only, "task.sources.train.split='train[:50]'")
    assert [len(rows) for rows in read(config, tmp_path).splits.values()] == [50, 3]
