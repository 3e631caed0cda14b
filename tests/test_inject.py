"""Finding target modules, placing a method on a model, and moving its state in and out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from src.adapters.base import Adapter, Setup
from src.adapters.inject import InjectedModel, adapters, find_targets, inject
from src.adapters.lora import LoRA
from src.adapters.lora_fa import LoRAFA
from src.config.checks import ROLES
from src.config.schema import ModelConfig
from src.errors import UserError
from src.models.base_model import load_base

YAML = Path(__file__).parents[1] / "conf" / "model" / "tiny_llama.yaml"


def tiny_config() -> ModelConfig:
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(YAML)))
    assert isinstance(config, ModelConfig)
    return config


def tiny_llama() -> nn.Module:
    base = load_base(tiny_config(), num_labels=0, attention="eager")
    return base.fresh_copy([], torch.Generator().manual_seed(0))


def with_adapter(method: type[Adapter], *, rank: int, roles: tuple[str, ...] = ("query", "value")) -> InjectedModel:
    model = tiny_llama()
    targets = find_targets(model, tiny_config(), list(roles))
    setup = Setup(targets, rank=rank, alpha=float(rank), generator=torch.Generator().manual_seed(0))
    return inject(model, method, setup, head=["lm_head"])


def test_query_and_value_are_found_in_both_layers_in_the_model_s_order() -> None:
    assert find_targets(tiny_llama(), tiny_config(), ["value", "query"]) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


def test_all_roles_are_all_linear_layers_but_the_head() -> None:
    model = tiny_llama()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    assert find_targets(model, tiny_config(), list(ROLES)) == linear


def test_a_wrong_module_name_is_refused_with_its_role_and_the_nearest_names() -> None:
    config = tiny_config()
    config.roles["query"].module = "model.layers.*.self_attn.query_proj"
    with pytest.raises(UserError, match=r"query is model\.layers(.|\n)*Nearest names: (.|\n)*self_attn\.q_proj"):
        find_targets(tiny_llama(), config, ["value", "query"])


def test_a_dot_in_a_module_name_stands_for_a_dot_alone() -> None:
    config = tiny_config()
    config.roles["query"].module = "model.layers.*.self.attn.q_proj"
    with pytest.raises(UserError, match="0 modules"):
        find_targets(tiny_llama(), config, ["query"])


def test_a_wrong_number_of_layers_is_refused() -> None:
    config = tiny_config()
    config.layers = 3
    with pytest.raises(UserError, match="in 3 layers; 2 modules"):
        find_targets(tiny_llama(), config, ["query"])


@pytest.mark.parametrize("side", ["in_features", "out_features"])
def test_a_wrong_size_is_refused_with_its_role_and_the_true_size(side: str) -> None:
    config = tiny_config()
    setattr(config.roles["value"], side, 33)
    with pytest.raises(UserError, match=r"value is (.|\n)*v_proj is 32 x 64"):
        find_targets(tiny_llama(), config, ["query", "value"])


def test_placing_wraps_the_targets_and_trains_adapters_and_head_alone() -> None:
    model = with_adapter(LoRA, rank=3).model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    targets = find_targets(tiny_llama(), tiny_config(), ["query", "value"])
    assert list(adapters(model)) == targets
    assert trained == {"lm_head.weight"} | {f"{name}.lora_{part}" for name in targets for part in "AB"}


def test_a_placed_model_computes_what_the_base_model_does_until_it_is_trained() -> None:
    model, ids = with_adapter(LoRA, rank=3).model, torch.arange(22).reshape(2, 11)
    assert torch.equal(model(ids).logits, tiny_llama()(ids).logits)
    nn.init.ones_(model.get_parameter("model.layers.1.self_attn.v_proj.lora_B"))
    assert not torch.equal(model(ids).logits, tiny_llama()(ids).logits)


def test_the_state_holds_the_head_and_both_trained_and_frozen_tensors_of_an_adapter() -> None:
    state = with_adapter(LoRAFA, rank=3, roles=("key",)).state()
    layers = [f"model.layers.{index}.self_attn.k_proj" for index in (0, 1)]
    assert set(state) == {"lm_head.weight"} | {f"{layer}.lora_{part}" for layer in layers for part in "AB"}


def test_loading_brings_over_adapters_and_head() -> None:
    source, copy, ids = with_adapter(LoRAFA, rank=3), with_adapter(LoRAFA, rank=3), torch.arange(22).reshape(2, 11)
    for index, tensor in enumerate(source.saved_tensors().values()):
        nn.init.normal_(tensor, generator=torch.Generator().manual_seed(index))
    assert not torch.equal(copy.model(ids).logits, source.model(ids).logits)
    copy.load(source.state())
    assert torch.equal(copy.model(ids).logits, source.model(ids).logits)


@pytest.mark.parametrize("other", [{"rank": 2}, {"rank": 3, "roles": ("query",)}], ids=["rank", "target"])
def test_a_state_of_another_rank_or_target_is_refused_and_changes_nothing(other: dict[str, Any]) -> None:
    injected, state = with_adapter(LoRA, rank=3), with_adapter(LoRA, **other).state()
    before = {name: tensor.clone() for name, tensor in injected.model.state_dict().items()}
    state["lm_head.weight"] += 1
    with pytest.raises(UserError, match="doesn't fit"):
        injected.load(state)
    assert all(torch.equal(before[name], tensor) for name, tensor in injected.model.state_dict().items())
