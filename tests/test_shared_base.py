"""Runs share the base's parameters, each its own head and adapters, and a method that changes them is found out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.adapters.inject import adapters
from src.adapters.lora import LoRA
from src.models.base_model import load_base, parameter_checksum
from src.results.store import ADAPTER
from src.running.assemble import fresh_model, inject_empty
from tests.conftest import TINY, composed
from tests.test_training import run

HEADED = [*TINY, "model.head=[lm_head]"]


def shared_with(model: nn.Module, base: Any) -> set[str]:
    own = {id(parameter) for parameter in base.module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ([*TINY, "adapter=lora"], True),
        ([*TINY, "adapter=dora"], True),
        ([*TINY, "adapter=lora_sb"], True),
        ([*TINY, "adapter=pissa"], False),
        ([*TINY, "adapter=full"], False),
        ([*TINY, "adapter=peft/vera"], False),
    ],
)
def test_who_shares(overrides: list[str], shares: bool) -> None:
    config = composed(*overrides)
    base = load_base(config.model, num_labels=0, attention="eager")
    model = fresh_model(config, base)
    assert len(shared_with(model, base)) == (len(list(base.module.parameters())) if shares else 0)


def test_each_run_has_its_own_head() -> None:
    config = composed(*HEADED, "adapter=lora")
    base = load_base(config.model, num_labels=0, attention="eager")
    first, second = fresh_model(config, base), fresh_model(config, base)
    shared = shared_with(first, base)
    assert shared
    assert not any(name.startswith("lm_head") for name in shared)
    assert first.lm_head.weight is not second.lm_head.weight


@pytest.mark.parametrize(
    "adapter",
    [
        "dora",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "lora_fa", "houlsby", "dylora", "lora_xs")),
    ],
)
def test_a_run_leaves_the_base_as_it_was(adapter: str, tmp_path: Path) -> None:
    config = composed(*TINY, f"adapter={adapter}", "rank=2", f"results_dir={tmp_path}", "trainer.precision=bf16")
    base = load_base(config.model, num_labels=0, attention="eager")
    before = {name: tensor.clone() for name, tensor in base.module.state_dict().items()}
    run(config, tmp_path / "run")
    assert (tmp_path / "run" / ADAPTER).exists()
    assert all(torch.equal(before[name], tensor) for name, tensor in base.module.state_dict().items())
    assert {parameter.dtype for parameter in base.module.parameters()} == {torch.float32}


def test_a_method_that_changes_the_base_is_found_out(monkeypatch: Any) -> None:
    config = composed(*TINY, "adapter=lora")
    base = load_base(config.model, num_labels=0, attention="eager")
    model = inject_empty(config, fresh_model(config, base)).model
    fresh_model(config, base)
    with torch.no_grad():
        next(iter(adapters(model).values())).base_layer.weight[0, 0] += 1e-3
    with pytest.raises(RuntimeError, match="changed the base model"):
        fresh_model(config, base)
    monkeypatch.setattr(LoRA, "leaves_base", False)
    fresh_model(config, base)


def test_the_checksum_sees_a_bit_and_an_exchange() -> None:
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    before = parameter_checksum(module)
    assert parameter_checksum(module) == before
    first, second = module[0], module[1]
    with torch.no_grad():
        first.weight.view(torch.int32)[1, 1] ^= 1
    assert parameter_checksum(module) != before
    with torch.no_grad():
        first.weight.view(torch.int32)[1, 1] ^= 1
    assert parameter_checksum(module) == before
    assert parameter_checksum(nn.Sequential(second, first)) != before
