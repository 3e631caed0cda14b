"""What `task.max_length` cuts is counted exactly, said before training with its share, and recorded."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from src.config.schema import Config, TaskConfig
from src.models.base_model import character_tokenizer, load_base
from src.results.store import read_record
from src.running import progress
from src.running.lifecycle import run
from src.running.prepare import prepare
from src.running.progress import Screen
from src.running.sweep import Plan
from src.tasks.base import Row
from src.training.batches import encode
from src.training.cuts import Cut, cut_items, cut_warning
from tests.conftest import composed

LENGTH = 12


def task(architecture: str) -> TaskConfig:
    return TaskConfig(name="t", architecture=architecture, max_length=LENGTH)


def counted(rows: list[Row], tokenizer: PreTrainedTokenizerBase, config: TaskConfig, *, trained: bool = True) -> Cut:
    return cut_items(rows, encode(rows, tokenizer, config), tokenizer, config, trained=trained)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    return load_base(composed().model, num_labels=2, attention="eager").tokenizer


@pytest.mark.parametrize("pair", [False, True])
def test_texts_that_lose_their_end_are_those_longer_than_allowed(pair: bool, words: PreTrainedTokenizerBase) -> None:
    rows = [{"text": "word " * length, "label": 0} for length in range(1, 30)]
    rows = [{**row, "text_pair": "other words"} for row in rows] if pair else rows
    # [CLS] and [SEP] around a text; a pair has one more [SEP] and here two more words.
    surplus = 5 if pair else 2
    longer = sum(length + surplus > LENGTH for length in range(1, 30))
    assert counted(rows, words, task("classifier")) == Cut(items=29, inputs=longer, answers=0)


@pytest.mark.parametrize("prompt", [1, 5, 8, 11, 12, 13, 40])
@pytest.mark.parametrize("answer", [1, 3, 9, 10, 11, 12, 40])
def test_prompts_lose_their_beginning_and_answers_their_end(prompt: int, answer: int) -> None:
    tokenizer = character_tokenizer()
    rows: list[Row] = [{"prompt": "a" * prompt, "answer": "b" * answer}]
    first = len(tokenizer("")["input_ids"])  # tokens that begin every text
    # An answer ends in one token more, and leaves a token of the length to its prompt.
    learned = min(answer + 1, LENGTH - 1)
    trained = counted(rows, tokenizer, task("causal_lm"))
    assert trained.answers == int(answer + 1 > LENGTH - 1)
    assert trained.inputs == int(first + prompt > LENGTH - learned)
    asked = counted(rows, tokenizer, task("causal_lm"), trained=False)
    assert asked == Cut(items=1, inputs=int(first + prompt > LENGTH), answers=0)


def test_a_conversation_is_counted_by_its_first_turn() -> None:
    rows: list[Row] = [{"turns": ["a" * 40, "b"], "reference": ""}, {"turns": ["a", "b" * 40], "reference": ""}]
    assert counted(rows, character_tokenizer(), task("causal_lm"), trained=False) == Cut(2, 1, 0)


@pytest.mark.parametrize(
    ("cuts", "said"),
    [
        ({"train": Cut(1000, 0, 0), "test": Cut(100, 0, 0)}, None),
        ({"train": Cut(1000, 980, 0), "test": Cut(100, 100, 0)},
         "cuts 980 of 1,000 train prompts (98 %), 100 of 100 test prompts (100 %)"),
        ({"train": Cut(10_000, 1, 9_999), "test": Cut(9, 3, 0)},
         "cuts 1 of 10,000 train prompts (0.1 %), 3 of 9 test prompts (33.3 %), 9,999 of 10,000 train answers "
         "(99.9 %)"),
    ],
)  # fmt: skip
def test_the_share_is_said_of_every_split_that_is_cut(cuts: dict[str, Cut], said: str | None) -> None:
    assert cut_warning(task("causal_lm"), cuts) == (said and f"task=t: task.max_length=12 {said}")


def test_a_cut_is_said_once_for_all_runs_of_a_sweep_before_training(
    tiny: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_screens", [Screen()])
    for seed in (0, 1):
        prepare(tiny("task.max_length=4", f"seed={seed}"), tmp_path)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("warning: task=reverse_words: task.max_length=4 cuts ")
    assert re.search(r"of 900 train prompts \(\d[\d.]* %\)", said)


@pytest.mark.slow
def test_a_cut_of_every_prompt_is_said_once_before_training_and_recorded(
    tiny: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_screens", [Screen()])
    short = ["adapter=lora", "rank=1", "trainer.max_steps=2", "trainer.eval_limit=4", "forgetting=none"]
    configs = [tiny("task.max_length=4", f"seed={seed}", *short) for seed in (0, 1)]
    plan = Plan.of(configs)
    assert [run(config, plan) for config in configs] == ["done", "done"]
    lines = capsys.readouterr().out.splitlines()
    (said,) = [line for line in lines if "task.max_length=4 cuts" in line]
    assert lines.index(said) < min(index for index, line in enumerate(lines) if "loss" in line)
    assert re.search(r"of 900 train prompts \(\d[\d.]* %\)", said)
    for folder in plan.folders:
        record = read_record(Path(folder))
        assert record is not None
        assert said.removeprefix("warning: ") in record["warnings"]
        assert record["data"]["cut"]["train"]["inputs"] > 0


def test_nothing_is_said_where_all_fits(tiny: Callable[..., Config], tmp_path: Path) -> None:
    prepared = prepare(tiny(), tmp_path)
    assert {(cut.inputs, cut.answers) for cut in prepared.cuts.values()} == {(0, 0)}
    assert cut_warning(prepared.config.task, prepared.cuts) is None
