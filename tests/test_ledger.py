"""The parameter ledger against counts done by hand from the sizes of the tiny Llama."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from src.adapters.base import Method, Setup
from src.adapters.full import Full
from src.adapters.head_only import HeadOnly
from src.adapters.inject import find_targets, inject
from src.adapters.ledger import Ledger, count
from src.adapters.lora import LoRA
from src.adapters.lora_fa import LoRAFA
from src.adapters.lora_xs import LoRAXS
from src.config.checks import ROLES
from src.config.schema import ModelConfig
from src.models.base_model import load_base

YAML = Path(__file__).parents[1] / "conf" / "model" / "tiny_llama.yaml"

# q, k, v, o, then gate, up and down; 98 characters, two norms of 64 in a layer and one after the last
LAYER = 64 * 64 + 64 * 32 + 64 * 32 + 64 * 64 + 3 * 64 * 128 + 2 * 64
HEAD = 98 * 64
TOTAL = 2 * LAYER + 98 * 64 + HEAD + 64


def ledger_of(method: type[Method], roles: tuple[str, ...] = ROLES) -> Ledger:
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(YAML)))
    assert isinstance(config, ModelConfig)
    model = load_base(config, num_labels=0, attention="eager").fresh_copy([], torch.Generator())
    targets = find_targets(model, config, list(roles))
    setup = Setup(targets, rank=3, alpha=3.0, generator=torch.Generator())
    return count(inject(model, method, setup, head=["lm_head"]))


def test_lora_on_every_role_counts_rank_times_the_sum_of_the_sides() -> None:
    sides = (64 + 64) + (64 + 32) + (64 + 32) + (64 + 64) + 3 * (64 + 128)
    trained = 2 * 3 * sides
    assert trained == 6144
    assert ledger_of(LoRA) == Ledger(
        adapter_trained=trained,
        head_trained=HEAD,
        other_trained=0,
        adapter_frozen=0,
        base_frozen=TOTAL - HEAD,
        total=TOTAL,
        adapter_bytes=4 * (trained + HEAD),
        optimizer_bytes=8 * (trained + HEAD),
    )


def test_lora_fa_on_query_and_value_trains_the_output_sides_and_stores_the_input_sides() -> None:
    ledger = ledger_of(LoRAFA, ("query", "value"))
    assert ledger.adapter_trained == 2 * 3 * (64 + 32) == 576
    assert ledger.adapter_frozen == 2 * 3 * (64 + 64) == 768
    assert ledger.adapter_bytes == 4 * (576 + 768 + HEAD)
    assert ledger.optimizer_bytes == 8 * (576 + HEAD)


def test_lora_xs_trains_rank_squared_for_each_matrix() -> None:
    ledger = ledger_of(LoRAXS, ("query", "value"))
    assert ledger.adapter_trained == 4 * 9
    assert ledger.adapter_frozen == 2 * 3 * (64 + 64 + 64 + 32)


def test_full_fine_tuning_trains_the_head_and_all_of_the_rest() -> None:
    ledger = ledger_of(Full)
    assert (ledger.head_trained, ledger.other_trained, ledger.base_frozen) == (HEAD, TOTAL - HEAD, 0)
    assert (ledger.adapter_trained, ledger.adapter_frozen) == (0, 0)
    assert ledger.trained == TOTAL
    assert ledger.adapter_bytes == 4 * TOTAL


def test_head_only_trains_the_head_alone() -> None:
    ledger = ledger_of(HeadOnly)
    assert (ledger.head_trained, ledger.other_trained, ledger.base_frozen) == (HEAD, 0, TOTAL - HEAD)
    assert ledger.trained == HEAD


@pytest.mark.parametrize("method", [Full, HeadOnly, LoRA, LoRAFA, LoRAXS])
def test_the_denominator_is_the_same_for_every_method(method: type[Method]) -> None:
    assert ledger_of(method).total == TOTAL == 86592


def test_a_base_layer_named_like_an_adapter_is_counted_as_the_base() -> None:
    model = nn.ModuleDict({"lora_A": nn.Linear(7, 5), "wrapped": nn.Linear(7, 5), "head": nn.Linear(5, 2)})
    setup = Setup(["wrapped"], rank=3, alpha=3.0, generator=torch.Generator())
    ledger = count(inject(model, LoRA, setup, head=["head"]))
    assert (ledger.adapter_trained, ledger.head_trained, ledger.base_frozen) == (36, 12, 80)


def test_a_model_is_counted_without_its_weights_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(70_000, 50_000), nn.Linear(50_000, 2))
        injected = inject(model, LoRA, Setup(["0"], rank=3, alpha=3.0), head=["1"])
    ledger = count(injected)
    assert ledger.adapter_trained == 3 * 120_000
    assert ledger.head_trained == 100_002
    assert ledger.total == 70_000 * 50_000 + 50_000 + 100_002
