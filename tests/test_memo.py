"""Calls that mean the same are answered from memory, and no others."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.config.memo import kept
from src.config.schema import Config
from src.running.execute import _decides_loss
from src.running.starts import _path
from tests.conftest import TINY, composed


@dataclass
class Options:
    values: dict[str, int] = field(default_factory=dict)


def test_configs_are_told_apart_by_their_content_and_the_latest_are_kept() -> None:
    calls: list[int] = []

    @kept(2)
    def total(options: Options, *, factor: int) -> int:
        calls.append(factor)
        return factor * sum(options.values.values())

    assert total(Options({"a": 1}), factor=3) == total(Options({"a": 1}), factor=3) == 3
    assert calls == [3]
    assert total(Options({"a": 2}), factor=3) == 6
    total(Options({"a": 1}), factor=3)  # used last, so the next new call drops the other
    total(Options({"a": 1}), factor=5)
    total(Options({"a": 1}), factor=3)
    assert calls == [3, 3, 5]
    total(Options({"a": 2}), factor=3)
    assert calls == [3, 3, 5, 3]


def test_a_key_says_what_decides() -> None:
    calls: list[str] = []

    @kept(1, key=lambda name, loud: name.lower())
    def greeting(name: str, loud: bool) -> str:
        calls.append(name)
        return name

    assert greeting("Ada", True) == greeting("ADA", False) == "Ada"
    assert calls == ["Ada"]


def decides(config: Config, data: str = "rows") -> dict[str, Any]:
    """The keys of what runs of a process share, for a run with these settings on these rows."""
    run: Any = SimpleNamespace(
        config=config,
        device=SimpleNamespace(type="cpu", precision="fp32", attention="eager"),
        examples={"train": [{"input_ids": [index], "of": data} for index in range(9)]},
    )
    return {"directions": _path(run, 8), "loss": _decides_loss(run)}


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ("seed=1", {"directions"}),
        ("protocol=paper", set()),  # itself; what it makes of the rows is in their fingerprint
        ("trainer.calibration_samples=3", {"directions"}),
        ("adapter.options.probe_dropout=true", {"directions"}),
        ("adapter.options.eta=0.1", set()),
        ("lr=0.5", set()),
        ("rank=2", set()),
        ("quantization=nf4", {"directions", "loss"}),
        ("model.dtype=bfloat16", {"directions", "loss"}),
        ("task.max_length=30", set()),  # nor this: the texts' tokens are compared
        ("forgetting=none", {"loss"}),
    ],
)
def test_what_runs_share_is_theirs_by_all_that_decides_it(change: str, moved: set[str]) -> None:
    plain, other = (decides(composed(*TINY, "adapter=lora_sb", *changes)) for changes in ([], [change]))
    assert {key for key in plain if plain[key] != other[key]} == moved


def test_an_estimate_is_of_its_rows_and_a_loss_of_its_text_and_head(tmp_path: Path) -> None:
    config = composed(*TINY, "adapter=lora_sb")
    assert decides(config)["directions"] != decides(config, data="others")["directions"]
    text = tmp_path / "text.txt"
    text.write_text("one")
    of_text = composed(*TINY, f"forgetting={text}")
    before = decides(of_text)["loss"]
    text.write_text("another")  # between two runs of one sweep
    assert decides(of_text)["loss"] != before
    heads = [decides(composed(*TINY, "model.head=[lm_head]", f"seed={seed}"))["loss"] for seed in (0, 1)]
    assert heads[0] != heads[1]
