"""The promise of docs/extend.md: a new method or task is one file and one yaml, and nothing else needs to change."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from src.adapters.base import Adapter
from src.analysis.collect import collect
from src.config.schema import Config
from src.results.store import read_record
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.tasks.base import SPLITS, TaskData
from src.tasks.source import Source
from tests.conftest import ROOT


class InputScale(Adapter):
    """y = base(x * scale): a method that this project doesn't have."""

    def create(self) -> None:
        self.scale = self.parameter(self.in_features)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        self.scale.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.scale, self.base_layer.weight, self.base_layer.bias)

    def merged_weight(self) -> Tensor:
        return self.base_layer.weight * self.scale

    @staticmethod
    def expected_trainable(in_features: int, out_features: int, rank: int) -> int:
        return in_features


def load(source: Source, *, size: int) -> TaskData:
    """Repeat a letter: a task that this project doesn't have."""
    rows = [{"prompt": f"{letter}:", "answer": letter} for letter in "abcdefgh"[:size]]
    return TaskData(splits=dict.fromkeys(SPLITS, rows), label_names=[])


def attempt(config: Config) -> Path:
    plan = Plan.of([config])
    assert run(config, plan) == "done"
    return Path(plan.folders[0])


def test_a_new_method_is_trained_counted_saved_and_tabled_without_another_change(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    new = ["adapter.name=input_scale", f"adapter.method={__name__}.InputScale", "adapter.axes=[target,lr]"]
    folder = attempt(tiny("adapter=lora", *new, "~adapter.options.init", "~adapter.options.dropout", "target=ffn"))
    record = read_record(folder)
    assert record is not None
    assert folder.name.startswith("input_scale-ffn-s0-")
    assert record["parameters"]["adapter_trained"] == 2 * (64 + 64 + 128)
    assert collect(tmp_path)["adapter"].tolist() == ["input_scale"]


def test_a_new_task_is_run_without_another_change(tiny: Callable[..., Config]) -> None:
    new = ["task.name=repeat", f"task.loader={__name__}.load", *_only_size()]
    record = read_record(attempt(tiny("adapter=full", *new)))
    assert record is not None
    assert record["metrics"]["test"]["n"] == 5


def _only_size() -> list[str]:
    options = (ROOT / "conf/task/reverse_words.yaml").read_text().split("options:")[1].split()
    return [*(f"~task.options.{name[:-1]}" for name in options if name.endswith(":")), "+task.options.size=5"]
