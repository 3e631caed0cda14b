"""HumanEval and MT-Bench: their real files as prompts, and runs that a judge rates, keeps waiting or leaves."""

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src.config.schema import Config
from src.errors import UserError
from src.judging.judge import ANSWERS, ASKS, JUDGMENTS, read_judgments, read_rows
from src.metrics import score
from src.results.schema import Record
from src.results.store import ADAPTER, FIT, PREDICTIONS, read_record
from src.running import fitting
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.tasks.base import load_task
from src.training.trainer import train
from tests import test_judge
from tests.conftest import HANG_SECONDS, as_on_the_hub, composed, real_data, run_program
from tests.test_judge import KEY, Reply, Server

judge_server = test_judge.server

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
TINY = ["model=tiny_llama", "model.config.max_position_embeddings=2048", "tracking=none", "trainer=smoke"]
TINY += ["adapter=lora", "rank=2", "trainer.batch_size=4"]
SHORT = ["task.max_length=240", "task.max_new_tokens=4"]
PAIRS = [
    {"instruction": f"Say {word} {times} times.", "output": " ".join([word] * times)}
    for word in ("one", "two", "{three}")
    for times in (1, 2, 3, 4)
]
HUMANEVAL = "humaneval/HumanEval.jsonl.gz"
QUESTIONS = [
    {"question_id": 7, "category": "writing", "turns": ["Write {a} line.", "Shorten it."]},
    {"question_id": 5, "category": "math", "turns": ["What is 3 + 4?", "And doubled?"]},
]
JUDGE_PROMPTS = [{"name": name, **prompt} for name, prompt in test_judge.PROMPTS.items()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def queries() -> list[dict[str, Any]]:
    """The pairs in the columns of CodeFeedback."""
    return [{"query": pair["instruction"], "answer": pair["output"], "lang": "python"} for pair in PAIRS]


def with_real(folder: Path, *paths: str) -> Path:
    """A data folder with links to real files and with training files of the made-up pairs."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(real_data(path))
    write(folder / "wizard.jsonl", PAIRS)
    write(folder / "code.jsonl", queries())
    return folder


def small_mt_bench(folder: Path) -> Path:
    """A data folder with two questions, the second with reference answers, and the judge's prompts."""
    write(folder / "wizard.jsonl", PAIRS)
    write(folder / "mt_bench/question.jsonl", QUESTIONS)
    write(folder / "mt_bench/judge_prompts.jsonl", JUDGE_PROMPTS)
    answers = [{"question_id": 5, "choices": [{"index": 0, "turns": ["Seven.", "Fourteen."]}]}]
    write(folder / "mt_bench/reference_answer/gpt-4.jsonl", answers)
    return folder


def humaneval(folder: Path, *overrides: str) -> Config:
    sources = [f"task.data_dir={folder}", "task.sources.train.file=code.jsonl", "task.validation_size=2"]
    return composed("task=humaneval", *TINY, *sources, "task.allow_code_execution=true", *overrides)


def mt_bench(folder: Path, *overrides: str) -> Config:
    sources = [f"task.data_dir={folder}", "task.sources.train.file=wizard.jsonl", "task.validation_size=2"]
    return composed("task=mt_bench", *TINY, *sources, *overrides)


def rows(config: Config, split: str = "test") -> list[dict[str, Any]]:
    return load_task(config).data.splits[split]


# ---- the real files


@pytest.fixture
def problems() -> list[dict[str, Any]]:
    with gzip.open(real_data(HUMANEVAL), "rt") as file:
        return [json.loads(line) for line in file]


def test_humaneval_asks_for_each_of_its_164_functions(tmp_path: Path, problems: list[dict[str, Any]]) -> None:
    prompts = rows(humaneval(with_real(tmp_path, HUMANEVAL)))
    assert len(prompts) == len(problems) == 164
    for row, problem in zip(prompts, problems, strict=True):
        assert row.keys() == {"prompt", "answer", "reference"}
        assert row["prompt"].startswith(f"{PREAMBLE}\n\n### Instruction:\n")
        assert row["prompt"].endswith(f"```python\n{problem['prompt'].strip()}\n```\n\n### Response:")
        assert row["answer"] == "\n" + problem["prompt"] + problem["canonical_solution"]
        assert json.loads(row["reference"]) == {key: problem[key] for key in ("prompt", "test", "entry_point")}


def test_a_humaneval_prompt_is_this(tmp_path: Path) -> None:
    assert rows(humaneval(with_real(tmp_path, HUMANEVAL)))[2]["prompt"] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Complete this Python function. Answer with the whole function in a code block.\n"
        "\n"
        "```python\n"
        "def truncate_number(number: float) -> float:\n"
        '    """ Given a positive floating point number, it can be decomposed into\n'
        "    and integer part (largest integer smaller than given number) and decimals\n"
        "    (leftover part always smaller than 1).\n"
        "\n"
        "    Return the decimal part of the number.\n"
        "    >>> truncate_number(3.5)\n"
        "    0.5\n"
        '    """\n'
        "```\n"
        "\n"
        "### Response:"
    )


MT_BENCH = ["mt_bench/question.jsonl", "mt_bench/judge_prompts.jsonl", "mt_bench/reference_answer/gpt-4.jsonl"]


def test_mt_bench_asks_each_of_its_80_questions_twice(tmp_path: Path) -> None:
    questions = [json.loads(line) for line in real_data(MT_BENCH[0]).read_text().splitlines()]
    prompts = rows(mt_bench(with_real(tmp_path, *MT_BENCH)))
    assert len(prompts) == len(questions) == 80
    for row, question in zip(prompts, questions, strict=True):
        first, second = row["turns"]
        assert first == f"{PREAMBLE}\n\n### Instruction:\n{question['turns'][0]}\n\n### Response:"
        assert second == f"### Instruction:\n{question['turns'][1]}\n\n### Response:"
        told = json.loads(row["reference"])
        for key in ("question_id", "category", "turns"):
            assert told[key] == question[key]
        assert told["prompts"].keys() == {
            f"single{math}-v1{turn}" for math in ("", "-math") for turn in ("", "-multi-turn")
        }


def test_an_mt_bench_conversation_is_this(tmp_path: Path) -> None:
    assert rows(mt_bench(with_real(tmp_path, *MT_BENCH)))[0]["turns"] == [
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nCompose an engaging travel blog post about a recent trip to Hawaii, highlighting cultural "
        "experiences and must-see attractions.\n\n### Response:",
        "### Instruction:\nRewrite your previous response. Start every sentence with the letter A.\n\n### Response:",
    ]


def test_the_judge_gets_references_of_the_questions_that_gpt_4s_file_answers(tmp_path: Path) -> None:
    lines = real_data(MT_BENCH[2]).read_text().splitlines()
    answered = {item["question_id"]: item["choices"][0]["turns"] for item in map(json.loads, lines)}
    told = [json.loads(row["reference"]) for row in rows(mt_bench(with_real(tmp_path, *MT_BENCH)))]
    assert {item["question_id"]: item["reference"] for item in told if item["reference"]} == answered
    assert len(answered) == 30
    assert {item["category"] for item in told if item["reference"]} == {"math", "reasoning", "coding"}


# ---- training data, and data that can't be


@pytest.mark.parametrize(("make", "path"), [(humaneval, HUMANEVAL), (mt_bench, MT_BENCH)])
def test_a_training_row_asks_as_the_test_does_and_answers_on_the_next_line(
    tmp_path: Path, make: Callable[..., Config], path: str | list[str]
) -> None:
    config = make(with_real(tmp_path, *([path] if isinstance(path, str) else path)))
    pairs = [row for split in ("train", "validation") for row in rows(config, split)]
    assert len(pairs) == len(PAIRS)
    assert {
        "prompt": f"{PREAMBLE}\n\n### Instruction:\nSay {{three}} 2 times.\n\n### Response:",
        "answer": "\n{three} {three}",
    } in pairs
    assert len(rows(config, "validation")) == 2


def test_the_hubs_training_data_give_the_rows_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The yamls name no file for training, so it comes from the hub even where task.data_dir is set."""
    folder = small_mt_bench(tmp_path / "data")
    as_file = load_task(mt_bench(folder)).fingerprint
    as_on_the_hub(tmp_path / "wizard_on_hub", monkeypatch, {"train": [{"idx": 1, **pair} for pair in PAIRS]})
    on_hub = composed("task=mt_bench", *TINY, f"task.data_dir={folder}", "task.validation_size=2")
    assert load_task(on_hub).fingerprint == as_file


def test_humaneval_from_the_hub_is_humaneval_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problems: list[dict[str, Any]]
) -> None:
    as_file = load_task(humaneval(with_real(tmp_path, HUMANEVAL))).fingerprint
    published = {
        "m-a-p/CodeFeedback-Filtered-Instruction": ("train", queries()),
        "openai/openai_humaneval": ("test", problems),
    }
    folders = {
        hub_id: as_on_the_hub(tmp_path / hub_id.replace("/", "_"), monkeypatch, {split: records})
        for hub_id, (split, records) in published.items()
    }
    monkeypatch.setattr("src.tasks.source.hub_folder", lambda hub_id, *args, **kwargs: folders[hub_id])
    on_hub = composed("task=humaneval", *TINY, "task.validation_size=2", "task.allow_code_execution=true")
    assert load_task(on_hub).fingerprint == as_file


def test_a_humaneval_problem_without_tests_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "code.jsonl", queries())
    write(tmp_path / "problems.jsonl", [{"task_id": "HumanEval/0", "prompt": "def f():", "canonical_solution": " 1"}])
    with pytest.raises(UserError, match=r"problems\.jsonl:1 has no column 'test'"):
        load_task(humaneval(tmp_path, "task.sources.test.file=problems.jsonl"))


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("wizard.jsonl", [{"instruction": "Hi", "answer": "Ho"}], r"wizard\.jsonl:1 has no column 'output'.\nIt has: "),
        (
            "mt_bench/question.jsonl",
            [{"question_id": 1, "turns": ["a"]}],
            r"question\.jsonl:1 has no column 'category'",
        ),
        ("mt_bench/question.jsonl", [], r"question\.jsonl has no rows"),
        ("mt_bench/judge_prompts.jsonl", None, r"judge_prompts\.jsonl doesn't exist"),
        ("mt_bench/judge_prompts.jsonl", [{"prompt_template": "{answer}"}], r"jsonl:1 has no column 'name'"),
        ("mt_bench/reference_answer/gpt-4.jsonl", [{"question_id": 5}], r"gpt-4\.jsonl:1 has no column 'choices'"),
    ],
)
def test_a_file_of_mt_bench_that_is_missing_or_another_is_told(
    tmp_path: Path, path: str, content: list[dict[str, Any]] | None, message: str
) -> None:
    folder = small_mt_bench(tmp_path)
    if content is None:
        (folder / path).unlink()
    else:
        write(folder / path, content)
    with pytest.raises(UserError, match=message):
        load_task(mt_bench(folder))


def test_mt_bench_has_no_answers_to_validate_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no answers in its test split(?s:.*)Allowed: protocol=strict"):
        load_task(mt_bench(small_mt_bench(tmp_path), "protocol=paper"))


# ---- what has to be agreed to, and what can be had without


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("humaneval", "Set task.allow_code_execution=true to agree, or trainer.score_test=false to train alone."),
        ("mt_bench", "Set task.judge.base_url=... to a server with OpenAI's API"),
    ],
)
def test_a_task_that_runs_code_or_asks_a_judge_wants_to_be_told_so(tmp_path: Path, task: str, message: str) -> None:
    done = run_program("src.run", f"task={task}", *TINY, f"task.data_dir={tmp_path}", f"results_dir={tmp_path}/r")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def attempt(config: Config) -> tuple[Record, Path]:
    plan = Plan.of([config])
    run(config, plan)
    folder = Path(plan.folders[0])
    record = read_record(folder)
    assert record is not None
    return record, folder


def test_both_tasks_train_without_code_and_without_a_judge(tmp_path: Path) -> None:
    data = small_mt_bench(tmp_path / "data")
    write(data / "code.jsonl", queries())
    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def f():\n",
        "entry_point": "f",
        "canonical_solution": "    return 1\n",
    }
    write(data / "problems.jsonl", [{**problem, "test": "def check(candidate):\n    assert candidate() == 1\n"}])
    common = [*SHORT, "trainer.score_test=false", f"results_dir={tmp_path}/results"]
    no_code = ["task.allow_code_execution=false", "task.sources.test.file=problems.jsonl"]
    for config in (humaneval(data, *common, *no_code), mt_bench(data, *common)):
        record, folder = attempt(config)
        assert record["state"] == "done"
        assert record["metrics"].keys() == {"validation"}
        assert record["metrics"]["validation"]["name"] == "loss"
        assert record["metrics"]["validation"]["n"] == 2
        assert not (folder / ANSWERS).exists()


# ---- the judge


def rated(folder: Path, server: Server, *overrides: str) -> Config:
    """A run on two questions that the server judges, one at a time and without a second try."""
    judge = [f"task.judge.base_url={server.url}", "task.judge.workers=1", "task.judge.retries=0"]
    results = f"results_dir={folder}/results"
    return mt_bench(small_mt_bench(folder / "data"), *SHORT, *judge, results, *overrides)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each training of this test gave."""
    outcomes: list[Any] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        outcomes.append(train(*args, **kwargs))
        return outcomes[-1]

    monkeypatch.setattr(fitting, "train", spy)
    return outcomes


def test_a_run_is_scored_by_the_judges_mean_rating(tmp_path: Path, judge_server: Server) -> None:
    judge_server.reply = lambda number: Reply(f"Rating: [[{[2, 3, 7, 10][number - 1]}]]")
    record, folder = attempt(rated(tmp_path, judge_server))
    assert record["state"] == "done"
    parts = record["metrics"]["test"].pop("more")
    assert (parts["turn_1"] + parts["turn_2"]) / 2 == 5.5  # which answer got which rating is up to the threads
    assert set(parts) == {"turn_1", "turn_2", "writing", "math"}
    assert record["metrics"]["test"] == {
        "name": "judge_rating", "value": 5.5, "higher_is_better": True, "unit": "rating", "n": 2,
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {
        ADAPTER, ANSWERS, JUDGMENTS, PREDICTIONS, "config.json", "result.json",
    }  # fmt: skip


def test_the_judge_reads_the_models_own_answers_in_fastchats_format(tmp_path: Path, judge_server: Server) -> None:
    _, folder = attempt(rated(tmp_path, judge_server, "trainer.max_steps=8", "lr=0.05"))
    answers = read_rows(folder / ANSWERS)
    assert [list(row) for row in answers] == [["question_id", "answer_id", "model_id", "choices", "tstamp"]] * 2
    assert {row["model_id"] for row in answers} == {folder.name}
    turns = {row["question_id"]: row["choices"][0]["turns"] for row in answers}
    assert turns.keys() == {7, 5}
    assert [row["choices"][0]["index"] for row in answers] == [0, 0]
    assert judge_server.prompts() == [
        f"Write {{a}} line.|{turns[7][0]}",
        f"Write {{a}} line.|{turns[7][0]}|Shorten it.|{turns[7][1]}",
        f"What is 3 + 4?|Seven.|{turns[5][0]}",
        f"Seven.|Fourteen.|What is 3 + 4?|{turns[5][0]}|And doubled?|{turns[5][1]}",
    ]
    items = pd.read_parquet(folder / PREDICTIONS)
    assert [json.loads(text) for text in items[items["split"] == "test"]["prediction"]] == [turns[7], turns[5]]


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (Reply("I'd rather not say."), 'no rating from 1 to 10 in 3 answers; the last begins:\n"I\'d rather not say."'),
        (Reply(after=threading.Event()), "gave no answer in 1 tries: no answer within 1 s"),
        (Reply(status=500, body="out of order"), "gave no answer in 1 tries: HTTP 500: out of order"),
        (Reply(status=401, body="who are you?"), "Set the environment variable OPENAI_API_KEY, which was refused"),
        (Reply(body="<html>"), "doesn't answer as OpenAI's API does: <html>"),
    ],
)
def test_a_judge_that_fails_costs_no_training_and_no_rating(
    tmp_path: Path, judge_server: Server, trainings: list[Any], failing: Reply, message: str
) -> None:
    judge_server.reply = lambda number: failing if number >= 3 else Reply()
    config = rated(tmp_path, judge_server, f"task.judge.timeout_seconds={1 if failing.after else HANG_SECONDS}")
    failed, folder = attempt(config)
    assert failed["state"] == "failed"
    assert failed["error"] is not None
    assert failed["error"]["class"] == "UserError"
    assert message in failed["error"]["message"]
    assert {path.name for path in folder.iterdir()} == {
        ADAPTER, ANSWERS, FIT, JUDGMENTS, "config.json", "result.json",
    }  # fmt: skip
    adapter, answers = (folder / ADAPTER).read_bytes(), read_rows(folder / ANSWERS)
    assert len(read_judgments(folder / JUDGMENTS)) == 2

    judge_server.requests.clear()
    judge_server.reply = lambda number: Reply("[[4]]")
    done, again = attempt(rated(tmp_path, judge_server))
    assert again == folder
    assert done["state"] == "done"
    assert done["error"] is None
    assert done["metrics"]["test"]["value"] == (7 + 7 + 4 + 4) / 4
    assert len(trainings) == 1
    (training, _) = trainings[0]
    assert done["history"] == training.history
    assert done["time"]["train_seconds"] == round(training.train_seconds, 3)
    assert len(judge_server.requests) == 2
    assert (folder / ADAPTER).read_bytes() == adapter
    assert [row["choices"] for row in read_rows(folder / ANSWERS)] == [row["choices"] for row in answers]
    assert not (folder / FIT).exists()


def test_a_resumed_run_has_the_record_of_one_that_never_failed(tmp_path: Path, judge_server: Server) -> None:
    same = {"metrics", "parameters", "scaling", "history", "data", "warnings", "identity", "seeds"}
    whole, _ = attempt(rated(tmp_path / "whole", judge_server))
    judge_server.reply = lambda number: Reply("no")
    assert attempt(rated(tmp_path / "resumed", judge_server))[0]["state"] == "failed"
    judge_server.reply = lambda number: Reply()
    resumed, _ = attempt(rated(tmp_path / "resumed", judge_server))
    assert {key: part for key, part in resumed.items() if key in same} == {
        key: part for key, part in whole.items() if key in same
    }


@pytest.mark.slow
def test_the_program_says_why_the_judge_failed_and_ends_with_status_1(tmp_path: Path, judge_server: Server) -> None:
    judge_server.reply = lambda number: Reply("I'd rather not say.")
    judge = [f"task.judge.base_url={judge_server.url}", f"results_dir={tmp_path}/results", "task.judge.workers=1"]
    data = [f"task.data_dir={small_mt_bench(tmp_path / 'data')}", "task.sources.train.file=wizard.jsonl"]
    command = ["src.run", "task=mt_bench", *TINY, *SHORT, *data, "task.validation_size=2", *judge]
    failed = run_program(*command)
    assert failed.returncode == 1
    assert "no rating from 1 to 10 in 3 answers" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    assert len(judge_server.requests) == ASKS
    judge_server.reply = lambda number: Reply()
    done = run_program(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(judge_server.requests) == ASKS + 4


def test_the_judges_key_is_in_no_file_of_the_results(tmp_path: Path, judge_server: Server) -> None:
    judge_server.reply = lambda number: Reply() if number == 1 else Reply(status=400, body=f"not with {KEY}")
    failed, _ = attempt(rated(tmp_path, judge_server))
    assert failed["error"] is not None
    assert "not with [key]" in failed["error"]["message"]
    judge_server.reply = lambda number: Reply()
    assert attempt(rated(tmp_path, judge_server))[0]["state"] == "done"
    assert judge_server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_metric_asks_nothing_that_is_answered_already(tmp_path: Path, judge_server: Server) -> None:
    references = [row["reference"] for row in rows(mt_bench(small_mt_bench(tmp_path)))]
    config = test_judge.config_for(judge_server)
    options = {"judge_config": config, "folder": tmp_path, "model_id": "tiny"}
    answers = [["A line.", "Line."], ["It is 7.", "It is 14."]]
    first, again = (score("judge_rating", answers, references, **options) for _ in range(2))
    assert first == again
    assert (first.value, first.unit, first.higher_is_better) == (7.0, "rating", True)
    assert len(judge_server.requests) == 4
