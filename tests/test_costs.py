"""What `plan=true` says a sweep takes: parameters, memory and seconds, and what doesn't fit."""

from pathlib import Path
from typing import Any

import pytest

from src.studies import costs
from src.studies.costs import cost_lines
from tests.conftest import TINY, composed


def sweep(folder: Path, *overrides: str) -> list[Any]:
    """LoRA at two ranks with two seeds each, and full fine-tuning."""
    runs = [[f"rank={rank}", f"seed={seed}", "adapter=lora"] for rank in (2, 4) for seed in (0, 1)]
    shared = [*TINY, f"results_dir={folder}/none", "trainer.precision=fp32", *overrides]
    return [composed(*shared, *run) for run in [*runs, ["adapter=full"]]]


def test_a_line_a_method_with_the_span_of_its_ranks(tmp_path: Path) -> None:
    head, lora, full = (line.split("  ") for line in cost_lines(sweep(tmp_path)))
    assert [cell.strip() for cell in head if cell] == ["model", "adapter", "rank", "target", "trained", "GB", "s/run"]
    assert any("2 to 4" in cell for cell in lora)
    small, large = next(cell for cell in lora if " to " in cell and "," in cell).split(" to ")
    assert int(large.replace(",", "")) == 2 * int(small.replace(",", ""))
    assert "full" in full
    assert full[-1].strip() == "?"  # there are no runs to know the seconds from


@pytest.mark.parametrize("share", [0.6, 0.0])
def test_what_does_not_fit_is_said(share: float, tmp_path: Path, monkeypatch: Any) -> None:
    (config, *_) = sweep(tmp_path, "trainer.batch_size=8")
    memory, _ = costs._memory(config)
    assert memory is not None
    monkeypatch.setattr(costs, "memory_bytes", lambda: share * memory.total / costs.SHARE_FOR_USE)
    said = cost_lines([config])[-1]
    if share:
        assert "of 8 texts at a time fit this device" in said
    else:
        assert said.startswith("warning: model=tiny_llama adapter=lora needs")
        assert "trainer.checkpointing=true" in said
