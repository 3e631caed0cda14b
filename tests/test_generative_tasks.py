"""Every task that generates, from its files to its record on a tiny model; and what may not change what is written.

The tasks are run with their real test files, as far as the data folder has them. Training files that it lacks are made
here in their official format, of real rows where there are some.
"""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from src.config.schema import Config
from src.metrics import Score
from src.models.base_model import BaseModel, load_base
from src.results.schema import Record
from src.results.store import PREDICTIONS, read_record
from src.running.execute import execute
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.sandbox.outside import BACKENDS, why_not_isolating
from src.tasks.base import load_task
from src.training.batches import encoded_splits
from src.training.device import Device, find_device
from src.training.scoring import Scored, Scoring
from tests import test_judge
from tests.conftest import ROOT, composed, real_data
from tests.test_judge import Server

pytestmark = pytest.mark.slow
judge_server = test_judge.server

Rows = list[dict[str, Any]]
TASKS = sorted(
    path.stem for path in (ROOT / "conf/task").glob("*.yaml") if "\narchitecture: causal_lm\n" in path.read_text()
)
LIMIT, HELD_OUT = 4, 6  # items scored of each set, rows held out for validation
SMOKE = [
    "tracking=none", "trainer=smoke", "adapter=lora", "rank=2", "trainer.batch_size=4", f"trainer.eval_limit={LIMIT}",
]  # fmt: skip
SUBJECTS = ("algebra", "counting_and_probability", "number_theory", "prealgebra")
COMMONSENSE = ("boolq", "piqa", "social_i_qa", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
LIKELIHOOD = {
    "log_probability": ["log_probability"],
    "bits_per_byte": ["answer_nats", "answer_tokens", "answer_bytes"],
}


# ---- files that the data folder doesn't have


def real_rows(path: str) -> Rows:
    """The rows of a real file of one JSON object a line, of one JSON list, or of a table."""
    text = real_data(path).read_text(encoding="utf-8")
    if path.endswith(".csv"):
        return list(csv.DictReader(text.splitlines()))
    return json.loads(text) if path.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(f"{json.dumps(row)}\n" for row in rows))


def hellaswag() -> Rows:
    """Made-up rows in LLM-Adapters' format: neither file of this set is in the data folder."""
    asked = "Please choose the correct ending to complete the given sentence: Cooking: A cook stirs pot {}. he"
    endings = "Ending1: tastes it. Ending2: flies. Ending3: sings to it. Ending4: leaves."
    return [
        {
            "instruction": f"{asked.format(number)}\n\n{endings}\n\nAnswer format: ending1/ending2/ending3/ending4",
            "input": "",
            "output": f"the correct answer is ending{number % 4 + 1}",
            "answer": f"ending{number % 4 + 1}",
        }
        for number in range(40)
    ]


def commonsense_170k() -> Rows:
    """The beginnings of the real training sets, one after the other, as the published file has all of them."""
    trained = [real_rows(f"commonsense/{name}/train.json")[:20] for name in ("boolq", "ARC-Easy", "openbookqa")]
    return [row for rows in trained for row in rows] + hellaswag()[:20]


def metamathqa() -> Rows:
    """Real training questions of GSM8K with MetaMathQA's columns and its way of ending."""
    made = []
    for row in real_rows("gsm8k/train.jsonl")[:40]:
        number = row["answer"].rpartition("#### ")[2]
        response = f"{row['answer']}\nThe answer is: {number}"
        made.append({"type": "GSM_Rephrased", "query": row["question"], "response": response})
    return made


def samsum(first: int, last: int) -> Rows:
    """Real validation rows under the names that their columns have in the archive."""
    rows = real_rows("samsum/validation_context_response.jsonl")[first:last]
    return [{"id": str(n), "dialogue": row["context"], "summary": row["response"]} for n, row in enumerate(rows)]


def instructions(*columns: str) -> Rows:
    """Made-up pairs of an instruction and an answer: nothing of either training set is in the data folder."""
    pairs = [(f"Say the number {number} in words.", f"That is {number}, in digits.") for number in range(40)]
    return [dict(zip(columns, pair, strict=True)) for pair in pairs]


# ---- what each task needs


@dataclass(frozen=True)
class Needs:
    """What lets a task run: real files that are linked, files that are made, and overrides.

    `sets` are those of the test split; `trained_on` is the held-out split that has all training rows among its own.
    """

    real: list[str] = field(default_factory=list)
    made: dict[str, Callable[[], Rows]] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    trained_on: str | None = None


def choice(name: str) -> Needs:
    return Needs([f"commonsense/{name}/{split}.json" for split in ("train", "test")])


def choice_without_train(name: str) -> Needs:
    """A commonsense set without a training file: forty rows of its test file serve, which the record has to tell."""
    test = f"commonsense/{name}/test.json"
    return Needs([test], {f"commonsense/{name}/train.json": lambda: real_rows(test)[-40:]}, trained_on="test")


NEEDS = {
    "arc_challenge": choice("ARC-Challenge"),
    "arc_easy": choice("ARC-Easy"),
    "boolq": choice("boolq"),
    "commonsense_170k": Needs(
        [f"commonsense/{name}/test.json" for name in COMMONSENSE],
        {"commonsense/commonsense_170k.json": commonsense_170k, "commonsense/hellaswag/test.json": hellaswag},
        sets=["boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"],
    ),
    "e2e": Needs(
        ["e2e/devset.csv", "e2e/test.txt"],
        {"e2e/trainset.csv": lambda: real_rows("e2e/devset.csv")[:40]},
        ["task.sources.test.file=e2e/test.txt"],
        trained_on="validation",
    ),
    "gsm8k": Needs(["gsm8k/train.jsonl", "gsm8k/test.jsonl"]),
    "hellaswag": Needs(
        made={"commonsense/hellaswag/train.json": hellaswag, "commonsense/hellaswag/test.json": hellaswag},
        trained_on="test",
    ),
    "humaneval": Needs(
        ["humaneval/HumanEval.jsonl.gz"],
        {"train.jsonl": lambda: instructions("query", "answer")},
        ["task.sources.train.file=train.jsonl", "task.allow_code_execution=true"],
    ),
    "math": Needs(
        [f"math/subjects_alpaca/{name}/train.jsonl" for name in SUBJECTS] + ["math/math500_test.jsonl"],
        overrides=[f"~task.sources.train_{name}" for name in ("geometry", "intermediate_algebra", "precalculus")],
    ),
    "metamathqa": Needs(
        ["gsm8k/test.jsonl", "math/math500_test.jsonl"],
        {"metamathqa/MetaMathQA-395K.json": metamathqa},
        sets=["gsm8k", "math"],
    ),
    "mt_bench": Needs(
        ["mt_bench/question.jsonl", "mt_bench/judge_prompts.jsonl", "mt_bench/reference_answer/gpt-4.jsonl"],
        {"train.jsonl": lambda: instructions("instruction", "output")},
        ["task.sources.train.file=train.jsonl"],
    ),
    "openbookqa": choice("openbookqa"),
    "piqa": choice_without_train("piqa"),
    "reverse_words": Needs(overrides=["task.max_length=32", "task.max_new_tokens=8"]),
    "samsum": Needs(
        ["samsum/test.jsonl"],
        {"samsum/train.jsonl": lambda: samsum(0, 40), "samsum/validation.jsonl": lambda: samsum(40, 60)},
    ),
    "social_i_qa": choice_without_train("social_i_qa"),
    "wikisql": Needs(  # of which only dev.jsonl is in the data folder, and no table
        ["wikisql/dev.jsonl"],
        {"wikisql/train.jsonl": lambda: real_rows("wikisql/dev.jsonl")[:40]},
        ["task.options.headers=false", "task.sources.test.file=wikisql/dev.jsonl"],
        trained_on="test",
    ),
    "winogrande": choice_without_train("winogrande"),
}


def stories() -> list[str]:
    return ["model=stories260k", f"model.path={real_data('models/stories260K-hf')}"]


def of_task(name: str, folder: Path, *overrides: str) -> list[str]:
    """The overrides that let a task be had from `folder`, where its files are linked or made."""
    needs, data = NEEDS[name], folder / "data"
    for path in needs.real:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).symlink_to(real_data(path))
    for path, make in needs.made.items():
        write(data / path, make())
    return [f"task={name}", f"task.data_dir={data}", f"task.validation_size={HELD_OUT}", *overrides, *needs.overrides]


def skip_without_isolation() -> None:
    if all(map(why_not_isolating, BACKENDS)):
        pytest.skip("; ".join(f"{name}: {why_not_isolating(name)}" for name in BACKENDS))


# ---- from the files to the record


def attempt(config: Config) -> tuple[Record, Path]:
    plan = Plan.of([config])
    run(config, plan)
    record = read_record(Path(plan.folders[0]))
    assert record is not None
    return record, Path(plan.folders[0])


def test_each_task_that_generates_is_run_here() -> None:
    assert sorted(NEEDS) == TASKS, "a new task needs an entry in NEEDS"
    assert len(TASKS) > 15


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_trained_on_scored_and_recorded(name: str, tmp_path: Path, judge_server: Server) -> None:
    if name == "humaneval":
        skip_without_isolation()
    judge = [f"task.judge.base_url={judge_server.url}"] if name == "mt_bench" else []
    short = ["task.max_length=448", "task.max_new_tokens=12", f"results_dir={tmp_path}/results", *judge]
    config = composed(*stories(), *SMOKE, *of_task(name, tmp_path, *short))
    record, folder = attempt(config)
    assert record["state"] == "done", record["error"]
    _check_metrics(record, config, NEEDS[name].sets)
    _check_history(record)
    _check_data(record, NEEDS[name].trained_on)
    _check_predictions(folder, record)


def _check_metrics(record: Record, config: Config, sets: list[str]) -> None:
    task = config.task
    assert record["metrics"].keys() == {"validation", "test"}
    for split, metric in record["metrics"].items():
        expected = task.metric if split == "test" else task.validation_metric or task.metric
        assert metric["name"] == expected
        assert metric["higher_is_better"] == (expected != "loss")
        values = [metric["value"], *metric.get("more", {}).values(), *metric.get("sets", {}).values()]
        assert all(math.isfinite(value) for value in values)
        parts = {"judge_rating": ["turn_1", "turn_2", "writing"], "pass_at_k": ["timed_out"]}.get(expected, [])
        assert list(metric.get("more", {})) == ([] if expected == "loss" else task.more_metrics + parts)
    test = record["metrics"]["test"]
    outcome = "log_probability" if task.metric == "choice" else "bits_per_byte"
    found = {split: metric["secondary"] for split, metric in record["metrics"].items() if "secondary" in metric}
    assert {split: secondary["name"] for split, secondary in found.items()} == {
        split: outcome for split in record["metrics"] if (split, task.name) != ("test", "mt_bench")
    }
    assert sorted(found["test"].get("sets", {}) if "test" in found else []) == sorted(sets)
    assert sorted(test.get("sets", {})) == sorted(sets)
    if sets:
        assert test["value"] == pytest.approx(sum(test["sets"].values()) / len(sets), abs=1e-12)
    assert test["n"] == LIMIT * max(1, len(sets))
    assert record["metrics"]["validation"]["n"] == LIMIT


def _check_history(record: Record) -> None:
    losses = [point["loss"] for point in record["history"] if "loss" in point]
    assert len(losses) == 4
    assert all(0 < loss < 50 for loss in losses)
    assert [point["step"] for point in record["history"] if "validation" in point] == [2]


def _check_data(record: Record, trained_on: str | None) -> None:
    """The overlap is counted on whole splits, and told of for people just where there is some."""
    rows, overlap = record["data"]["rows"], record["data"]["overlap"]
    assert {key: counts["items"] for key, counts in overlap.items()} == {
        **{split: rows[split] for split in ("validation", "test")},
        "test_validation": rows["test"],
        **{f"inside_{split}": rows[split] for split in rows},
    }
    for split in ("validation", "test"):
        told = [warning for warning in record["warnings"] if f"{split} items are in train too" in warning]
        assert len(told) == bool(overlap[split]["normalised"])
    if trained_on:
        assert overlap[trained_on]["exact"] > 0
    cut = record["data"]["cut"]
    assert any("task.max_length=" in warning for warning in record["warnings"]) == any(
        counts["inputs"] or counts["answers"] for counts in cut.values()
    )


def _check_predictions(folder: Path, record: Record) -> None:
    items = pd.read_parquet(folder / PREDICTIONS)
    columns = LIKELIHOOD[record["metrics"]["validation"]["secondary"]["name"]]
    assert list(items) == ["split", "item", "prediction", "reference", "score", *columns]
    for split, metric in record["metrics"].items():
        numbers = items[items["split"] == split]["item"]
        assert list(numbers) == list(range(metric["n"]))
        known = items.loc[items["split"] == split, columns].notna()
        secondary = metric.get("secondary", {"n": 0})
        assert known.sum().tolist() == [secondary["n"]] * len(columns)
    assert items.drop(columns=["score", *columns]).notna().all(axis=None)
    scored = items.groupby("split")["score"].agg(["count", "size"])
    assert ((scored["count"] == 0) | (scored["count"] == scored["size"])).all()  # of no item or of all


def test_a_models_own_generation_settings_have_no_part_in_the_texts(tmp_path: Path) -> None:
    """Authors recommend temperatures and penalties beside their weights; a score is of greedy texts all the same."""
    plain = real_data("models/stories260K-hf")
    recommended = {"do_sample": True, "temperature": 2.0, "repetition_penalty": 9.0, "max_length": 20}
    (tmp_path / "model").mkdir()
    for path in plain.iterdir():
        (tmp_path / "model" / path.name).symlink_to(path)
    (tmp_path / "model/generation_config.json").write_text(json.dumps(recommended))
    without, with_settings = (
        scored(chats(tmp_path / path.name, f"model.path={path}"), batch_size=4, items=4).predictions
        for path in (plain, tmp_path / "model")
    )
    assert with_settings == without
    assert len(set(without)) == 4


@pytest.mark.parametrize("adapter", ["ia3", "prompt_tuning"])
def test_a_model_that_peft_has_wrapped_writes_too(adapter: str, tmp_path: Path) -> None:
    common = ["task.max_length=32", "task.max_new_tokens=8", f"results_dir={tmp_path}"]
    record, _ = attempt(composed(*SMOKE, *stories(), "task=reverse_words", *common, f"adapter=peft/{adapter}"))
    assert record["state"] == "done", record["error"]


# ---- batches, samples, stops


def on(device: Device, base: BaseModel) -> PreTrainedModel:
    """The base model on a device."""
    nn.Module.to(base.module, device.type)
    return base.module


def scored(config: Config, *, batch_size: int, items: int, seed: int = 0, **options: Any) -> Scored:
    """What the base model gets for the first test items."""
    device = find_device("fp32")
    base = load_base(config.model, num_labels=0, attention=device.attention)
    scoring = Scoring(base.tokenizer, config.task, device, batch_size, seed, options)
    examples = encoded_splits(config, base.tokenizer)["test"][:items]
    return scoring.score(on(device, base), load_task(config).data.splits["test"][:items], examples)


@pytest.fixture
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are kept as they are written, whatever the metric would say of them."""
    monkeypatch.setattr("src.training.scoring.score", lambda name, *args, **kwargs: Score(name, 0.0))


def chats(folder: Path, *overrides: str) -> Config:
    return composed(*SMOKE, *stories(), *of_task("samsum", folder, "task.max_length=300", *overrides))


def test_texts_and_scores_are_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    config = chats(tmp_path, "task.max_new_tokens=24")
    alone, *others = (scored(config, batch_size=size, items=12) for size in (1, 5, 12))
    assert len(set(alone.predictions)) > 8
    assert all(other == alone for other in others)
    assert alone.score.value > 0


def test_an_items_loss_is_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    config, device = chats(tmp_path), find_device("fp32")
    base = load_base(config.model, num_labels=0, attention=device.attention)
    model, examples = on(device, base), encoded_splits(config, base.tokenizer)["test"][:24]
    alone, *others = (
        Scoring(base.tokenizer, config.task, device, size).answer_loss(model, examples) for size in (1, 7, 24)
    )
    assert alone.references == [sum(label >= 0 for label in example["labels"]) for example in examples]
    for other in others:
        assert other.predictions == pytest.approx(alone.predictions, abs=1e-4)
        assert other.score.value == pytest.approx(alone.score.value, abs=1e-4)
    item_means = zip(alone.predictions, alone.references, strict=True)
    assert alone.score.value == pytest.approx(sum(mean * n for mean, n in item_means) / sum(alone.references))


@pytest.mark.usefixtures("unscored")
def test_conversations_are_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    short = ["task.max_length=300", "task.max_new_tokens=24"]
    config = composed(*SMOKE, *stories(), *of_task("mt_bench", tmp_path, *short))
    alone, together = (scored(config, batch_size=size, items=6).predictions for size in (1, 4))
    assert alone == together
    assert all(len(turns) == 2 and turns[0] != turns[1] for turns in alone)


@pytest.mark.usefixtures("unscored")
def test_several_texts_are_drawn_and_the_seed_alone_decides_which(tmp_path: Path) -> None:
    config = chats(tmp_path, "task.max_new_tokens=24", "task.temperature=0.8")
    config.task.samples = 3  # refused from the command line for a metric that takes one text
    config.task.more_metrics.clear()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = scored(config, batch_size=4, items=6, seed=1).predictions
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert scored(config, batch_size=4, items=6, seed=1).predictions == first
    other = scored(config, batch_size=4, items=6, seed=2).predictions
    assert all(other_texts != texts for other_texts, texts in zip(other, first, strict=True))
    assert [len(texts) for texts in first] == [3] * 6
    assert all(len(set(texts)) == 3 for texts in first)


@pytest.mark.usefixtures("unscored")
def test_a_single_drawn_text_is_a_text_as_a_greedy_one_is(tmp_path: Path) -> None:
    drawn = ["task.max_new_tokens=12", "task.temperature=0.8"]
    texts = scored(chats(tmp_path / "chats", *drawn), batch_size=4, items=4).predictions
    assert all(isinstance(text, str) for text in texts)
    talks = composed(*SMOKE, *stories(), *of_task("mt_bench", tmp_path / "talks", "task.max_length=300", *drawn))
    assert all(isinstance(turn, str) for turns in scored(talks, batch_size=4, items=4).predictions for turn in turns)


def test_pass_at_k_takes_the_drawn_texts(tmp_path: Path) -> None:
    skip_without_isolation()
    drawn = ["task.temperature=0.8", "task.samples=3", "task.metric_options.k=2"]
    short = ["task.max_length=400", "task.max_new_tokens=24", f"results_dir={tmp_path}/results"]
    record, folder = attempt(composed(*SMOKE, *stories(), *of_task("humaneval", tmp_path, *short, *drawn)))
    assert record["state"] == "done", record["error"]
    assert record["metrics"]["test"]["name"] == "pass_at_k"
    assert record["metrics"]["test"]["more"] == {"timed_out": 0.0}
    assert record["metrics"]["test"]["n"] == LIMIT
    items = pd.read_parquet(folder / PREDICTIONS)
    assert [len(json.loads(prediction)) for prediction in items[items["split"] == "test"]["prediction"]] == [3] * LIMIT


@pytest.mark.usefixtures("unscored")
def test_a_text_ends_before_the_first_of_the_stop_strings(tmp_path: Path) -> None:
    def texts(name: str, *overrides: str) -> list[str]:
        return scored(chats(tmp_path / name, "task.max_new_tokens=40", *overrides), batch_size=4, items=8).predictions

    whole, stopped = texts("whole"), texts("stopped", 'task.stop=[" the ","She",". "]')
    assert stopped == [re.split(r" the |She|\. ", text)[0] for text in whole]
    assert stopped != whole


# ---- fine-tuning for real


def test_fine_tuning_a_real_model_lowers_its_loss_and_raises_its_score(tmp_path: Path) -> None:
    """A model that knows only stories learns to answer questions in the words that are asked for.

    It can't know the answers: "true" is right for 45 of these 60 questions. Untrained, its loss is 4.83 nats a token
    and none of its texts has an answer; trained, with any seed, 0.30 and 0.75.
    """
    write(tmp_path / "commonsense/boolq/train.json", real_rows("commonsense/boolq/train.json")[:1000])
    write(tmp_path / "commonsense/boolq/test.json", real_rows("commonsense/boolq/test.json")[:100])
    common = ["task=boolq", f"task.data_dir={tmp_path}", "task.validation_metric=loss", "task.validation_size=100"]
    size = ["task.max_new_tokens=24", "trainer.batch_size=8", "trainer.eval_limit=60", "trainer.eval_every=1000"]
    untrained, trained = (
        _executed(
            composed(*SMOKE, *stories(), *common, *size, "rank=8", f"trainer.max_steps={steps}", f"lr={rate}"),
            tmp_path / str(steps),
        )["metrics"]
        for steps, rate in ((1, 1e-12), (30, 1e-2))
    )
    assert untrained["validation"]["value"] > 4
    assert untrained["test"]["value"] < 0.1
    assert trained["validation"]["value"] < 1
    assert trained["test"]["value"] > 0.5


def _executed(config: Config, folder: Path) -> Record:
    folder.mkdir()
    return execute(config, folder, report=lambda step, metrics: None)
