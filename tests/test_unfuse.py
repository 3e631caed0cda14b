"""Fused and transposed projections become plain linear layers that compute the same, and go back unchanged."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from src.config.schema import ModelConfig
from src.errors import UserError
from src.models.base_model import character_tokenizer, load_base
from src.models.unfuse import Split, fused_state_dict, unfuse

FUSED = {"transformer.h.*.attn.c_attn": ["query", "key", "value"]}
IDS = torch.arange(22).reshape(2, 11)


def tiny_gpt2() -> GPT2LMHeadModel:
    """Width 12, 2 layers, float64; biases and norms are drawn too, so that each part of a fused bias counts."""
    config = GPT2Config(vocab_size=37, n_embd=12, n_layer=2, n_head=3, n_positions=13, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config)
        model.double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def unfused(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    model = copy.deepcopy(model)
    unfuse(model, FUSED)
    return model


def test_an_unfused_model_computes_what_the_original_does() -> None:
    model = tiny_gpt2()
    difference = unfused(model)(IDS).logits - model(IDS).logits
    assert difference.abs().max() < 1e-10


def test_every_fused_module_becomes_one_linear_layer_a_role_and_every_other_one_linear_layer() -> None:
    model = unfused(tiny_gpt2())
    shapes = {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    layer = {"attn.c_attn.query": (12, 12), "attn.c_attn.key": (12, 12), "attn.c_attn.value": (12, 12)}
    layer |= {"attn.c_proj": (12, 12), "mlp.c_fc": (48, 12), "mlp.c_proj": (12, 48)}
    expected = {f"transformer.h.{index}.{name}": shape for index in (0, 1) for name, shape in layer.items()}
    assert shapes == expected | {"lm_head": (37, 12)}
    assert not any(isinstance(module, Conv1D) for module in model.modules())


def test_a_role_s_gradient_is_its_part_of_the_fused_gradient() -> None:
    fused, split = tiny_gpt2(), unfused(tiny_gpt2())
    for model in (fused, split):
        model(IDS, labels=IDS).loss.backward()
    whole = fused.get_parameter("transformer.h.1.attn.c_attn.weight").grad  # (in, 3 * out)
    value = split.get_parameter("transformer.h.1.attn.c_attn.value.weight").grad  # (out, in)
    assert whole is not None
    assert value is not None
    assert torch.allclose(value, whole[:, 24:].T, rtol=0, atol=1e-12)


def test_the_order_of_outputs_is_that_of_the_names_even_if_a_layer_is_put_back_later() -> None:
    split = Split(torch.eye(6), torch.zeros(6), ["query", "key", "value"])
    query = split.query
    del split.query
    split.query = query
    assert torch.equal(split(torch.arange(6.0)), torch.arange(6.0))


def test_unfusing_draws_no_random_numbers() -> None:
    model, state = tiny_gpt2(), torch.random.get_rng_state()
    unfuse(model, FUSED)
    assert torch.equal(state, torch.random.get_rng_state())


def test_dtype_device_mode_and_requires_grad_stay() -> None:
    with torch.device("meta"):
        model = tiny_gpt2().bfloat16().requires_grad_(False)
    unfuse(model, FUSED)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_name_that_the_model_lacks_is_refused_and_changes_nothing() -> None:
    model = tiny_gpt2()
    with pytest.raises(UserError, match=r"h\.\*\.attn\.qkv(.|\n)*Nearest names: transformer\.h\.\d\.attn"):
        unfuse(model, {"transformer.h.*.attn.qkv": ["query", "key", "value"]})
    assert isinstance(model.get_submodule("transformer.h.0.attn.c_proj"), Conv1D)


def test_the_fused_state_is_the_original_s_to_the_last_bit() -> None:
    model = tiny_gpt2()
    original = model.state_dict()
    for state in (fused_state_dict(unfused(model)), fused_state_dict(model)):
        assert list(state) == list(original)
        assert all(torch.equal(state[key], original[key]) for key in original)


def test_a_trained_model_saved_fused_is_read_by_the_plain_class(tmp_path: Path) -> None:
    model = unfused(tiny_gpt2())
    with torch.no_grad():
        model.get_parameter("transformer.h.0.attn.c_attn.key.weight").add_(0.1)
        model.get_parameter("transformer.h.1.mlp.c_fc.weight").mul_(1.1)
    model.save_pretrained(tmp_path, state_dict=fused_state_dict(model))
    plain: Any = GPT2LMHeadModel  # whose types know nothing of the second result
    again, report = plain.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert (again.eval()(IDS).logits - model(IDS).logits).abs().max() < 1e-10
    unfuse(again, FUSED)
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_a_wrapped_layer_has_to_be_merged_before_its_state_is_fused() -> None:
    model = unfused(tiny_gpt2())
    name = "transformer.h.0.mlp.c_fc"
    model.set_submodule(name, nn.Sequential(model.get_submodule(name)))
    with pytest.raises(ValueError, match=r"mlp\.c_fc is a Sequential (.|\n)*Merge adapters first"):
        fused_state_dict(model)


def test_a_pretrained_model_is_unfused_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny_gpt2_weights"
    tiny_gpt2().save_pretrained(folder / "model")
    character_tokenizer().save_pretrained(folder / "model")
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    config = ModelConfig(
        "tiny_gpt2", "causal_lm", package="tiny_gpt2_weights", package_folder="model", fused=FUSED, layers=2
    )
    loaded = load_base(config, num_labels=0, attention="eager").module
    assert isinstance(loaded.get_submodule("transformer.h.1.attn.c_attn.value"), nn.Linear)
    original = tiny_gpt2().state_dict()
    assert all(torch.equal(tensor, original[key].float()) for key, tensor in fused_state_dict(loaded).items())


def test_a_drawn_model_is_unfused_too() -> None:
    sizes = {"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 13}
    config = ModelConfig("tiny_gpt2", "causal_lm", init_seed=0, config=sizes, fused=FUSED, layers=2)
    drawn = load_base(config, num_labels=0, attention="eager").module
    assert isinstance(drawn.get_submodule("transformer.h.1.attn.c_attn.value"), nn.Linear)
