"""A run of a sweep, whose process has caches of the runs before it, is byte for byte the run that is done alone."""

import inspect
import json
import random
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config
from src.results.store import ADAPTER, PREDICTIONS
from src.running.execute import execute
from tests.conftest import ROOT, composed
from tests.test_glue import files_of, made_up, write_original

FILES = (ADAPTER, PREDICTIONS)
ADAPTERS = sorted(
    str(path.relative_to(ROOT / "conf" / "adapter").with_suffix(""))
    for path in (ROOT / "conf" / "adapter").rglob("*.yaml")
)
# A decoder with biases, dropout in its attention, and gates: every method has something of it to train.
DECODER = ["model=tiny_llama", "task=gsm8k", "task.max_length=40", "task.max_new_tokens=2", "task.validation_size=7",
           "+model.config.attention_bias=true", "+model.config.attention_dropout=0.2",
           "task.prompt='{question} '"]  # fmt: skip
# MiniLM, with a head and dropout everywhere.
ENCODER = ["task=mrpc", "task.max_length=32", "task.validation_size=9", "model.config.hidden_dropout_prob=0.2",
           "model.config.attention_probs_dropout_prob=0.2"]  # fmt: skip
SHORT = ["trainer=smoke", "trainer.max_steps=3", "trainer.batch_size=4", "trainer.eval_limit=4", "tracking=none",
         "trainer.calibration_samples=8", "rank=4", "target=qv"]  # fmt: skip
# In this order a run follows one that differs in one value or two.
AXES = ["protocol=paper", "rank=2", "seed=1", "target=attention", "lr=0.02", "trainer.calibration_samples=5"]
EXTRA = {
    "lora": ["adapter.options.init=kaiming", "adapter.options.dropout=0.3", "adapter.options.lr_ratio=4"],
    "lora_sb": ["adapter.options.probe_dropout=true", "adapter.options.eta=1e-3", "adapter.options.dropout=0.3"],
    "peft/custom": ["adapter.config._target_=peft.LoKrConfig"],
}
GIVEN = {"peft/custom": ["adapter.config._target_=peft.LoHaConfig"]}


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up sums in the data set's form, none of them twice."""
    folder = tmp_path_factory.mktemp("data") / "gsm8k"
    folder.mkdir()
    pairs = [(first, second) for first in range(2, 12) for second in range(2, 9)]
    random.Random(0).shuffle(pairs)
    for split, part in (("train", pairs[:40]), ("test", pairs[40:55])):
        rows = [{"question": f"{a} + {b}?", "answer": f"So {a} + {b}.\n#### {a + b}"} for a, b in part]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.fixture(scope="module")
def mrpc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = {file: made_up("mrpc", file, 40 if file == "train" else 12) for file in files_of("mrpc")}
    return write_original(tmp_path_factory.mktemp("glue"), "mrpc", parts)


def caches() -> dict[str, OrderedDict[Any, Any]]:
    """What `src.config.memo.kept` keeps in this process, by function: data, models, estimates."""
    found: dict[str, OrderedDict[Any, Any]] = {}
    for module in [module for name, module in sys.modules.items() if name.startswith("src.")]:
        for name, value in vars(module).items():
            if inspect.isfunction(value) and hasattr(value, "__wrapped__"):
                results = inspect.getclosurevars(value).nonlocals.get("results")
                found |= {name: results} if isinstance(results, OrderedDict) else {}
    return found


def forget_all() -> None:
    """Empty them, as a new process would have them."""
    for results in caches().values():
        results.clear()


def files_of_run(config: Config, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    execute(config, folder, report=lambda step, metrics: None)
    return {file: (folder / file).read_bytes() for file in FILES}


def check(adapter: str, axes: list[str], shared: list[str], folder: Path) -> None:
    """Do the runs after one another and each alone, and hold their files against each other."""
    given = [*shared, *SHORT, f"adapter={adapter}", *GIVEN.get(adapter, []), f"results_dir={folder}",
             f"cache_dir={folder}", "forgetting=none"]  # fmt: skip
    names = ["plain", *axes]
    configs = [composed(*given, *axis) for axis in ([], *([axis] for axis in axes))]
    forget_all()
    swept = [files_of_run(config, folder / "sweep" / str(index)) for index, config in enumerate(configs)]
    assert any(caches().values())  # else a run of the sweep would be one alone
    for index, config in enumerate(configs):
        forget_all()
        alone = files_of_run(config, folder / "alone" / str(index))
        assert [file for file in FILES if alone[file] != swept[index][file]] == [], names[index]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "head_only"])  # this model has no head
def test_a_run_of_a_sweep_is_the_run_alone(adapter: str, gsm8k: Path, tmp_path: Path) -> None:
    quantized = ["quantization=nf4", "quantization=int8"] if adapter in ("lora", "lora_sb", "pissa", "dora") else []
    axes = [*AXES, *EXTRA.get(adapter, []), *quantized]
    check(adapter, axes, [*DECODER, f"task.data_dir={gsm8k}"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lora_sb", "houlsby", "pissa", "dylora", "head_only"])
def test_a_classifier_s_run_of_a_sweep_is_the_run_alone(adapter: str, mrpc: Path, tmp_path: Path) -> None:
    check(adapter, [*AXES[:3], *EXTRA.get(adapter, [])], [*ENCODER, f"task.data_dir={mrpc}"], tmp_path)


def test_strict_and_paper_in_one_sweep_are_strict_and_paper_alone(gsm8k: Path, tmp_path: Path) -> None:
    check("lora_sb", ["protocol=paper"], [*DECODER, f"task.data_dir={gsm8k}"], tmp_path)


@pytest.mark.slow
def test_what_another_run_s_axes_change_is_another_adapter(gsm8k: Path, tmp_path: Path) -> None:
    """The proof would be empty if the values changed nothing."""
    shared = [*DECODER, f"task.data_dir={gsm8k}", *SHORT, "adapter=lora_sb", f"cache_dir={tmp_path}", "forgetting=none"]
    made = [
        files_of_run(composed(*shared, *axis), tmp_path / str(index))[ADAPTER]
        for index, axis in enumerate([[], *([axis] for axis in AXES), ["adapter.options.probe_dropout=true"]])
    ]
    assert len(set(made)) == len(made)
    assert {name for name, results in caches().items() if results} >= {
        "load_task", "load_base", "encoded_splits", "_known",
    }  # fmt: skip


@pytest.mark.slow
def test_an_estimate_is_of_the_rows_that_are_there_now(gsm8k: Path, tmp_path: Path) -> None:
    """Another content of the same files is other data, though every setting is the same."""
    data = shutil.copytree(gsm8k / "gsm8k", tmp_path / "gsm8k")
    config = composed(*DECODER, *SHORT, "adapter=lora_sb", f"task.data_dir={tmp_path}", "forgetting=none",
                      f"cache_dir={tmp_path}")  # fmt: skip
    forget_all()
    first = files_of_run(config, tmp_path / "first")
    (data / "train.jsonl").write_text((data / "train.jsonl").read_text().replace(" + ", " - "))
    caches()["load_task"].clear()
    second = files_of_run(config, tmp_path / "second")
    forget_all()
    assert files_of_run(config, tmp_path / "alone") == second
    assert first[ADAPTER] != second[ADAPTER]
