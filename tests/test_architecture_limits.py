"""What models differ in that methods must know: fused and shared layers, experts, depths, biases, attention."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from src.adapters.base import Setup
from src.adapters.bitfit import BitFit
from src.adapters.head_only import HeadOnly
from src.adapters.houlsby import Houlsby
from src.adapters.inject import adapters, find_targets, inject
from src.adapters.ledger import count
from src.adapters.lora import LoRA
from src.config.schema import Config, CountConfig, ModelConfig, RoleConfig
from src.errors import UserError
from src.models.attention import supported_attention
from src.models.base_model import load_base
from src.models.unfuse import Split, fused_state_dict, unfuse
from src.running.prepare import prepare
from src.studies.counting import layer_sum
from src.training.device import Device
from tests.architectures import KINDS, tiny_architecture
from tests.conftest import composed
from tests.tiny_models import of_folder, saved, tiny_model

SMALL: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
}  # fmt: skip
QKV = ["query", "key", "value"]
# Models with fused attention: how transformers is told of one, and the fused layer.
FUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 4}, "transformer.h.*.attn.c_attn"),
    "gpt_neox": ("gpt_neox", SMALL, "gpt_neox.layers.*.attention.query_key_value"),
    "phi3": ("phi3", {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}, "model.layers.*.self_attn.qkv_proj"),
    "bloom": ("bloom", {**SMALL, "n_layer": 2, "n_head": 4}, "transformer.h.*.self_attention.query_key_value"),
    "falcon_one_key": ("falcon", {**SMALL, "multi_query": True, "new_decoder_architecture": False},
                       "transformer.h.*.self_attention.query_key_value"),
    "falcon_key_a_head": ("falcon", {**SMALL, "multi_query": False, "new_decoder_architecture": False},
                          "transformer.h.*.self_attention.query_key_value"),
    "falcon_groups": ("falcon", {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2},
                      "transformer.h.*.self_attention.query_key_value"),
    "persimmon": ("persimmon", {**SMALL, "qk_layernorm": False}, "model.layers.*.self_attn.query_key_value"),
    "mpt": ("mpt", {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 4}, "transformer.blocks.*.attn.Wqkv"),
    "bigcode_one_key": ("gpt_bigcode", {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 4, "multi_query": True},
                        "transformer.h.*.attn.c_attn"),
    "bigcode_key_a_head": ("gpt_bigcode", {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 4,
                                           "multi_query": False}, "transformer.h.*.attn.c_attn"),
}  # fmt: skip
KV_ROWS = {"phi3": 8, "falcon_one_key": 4, "falcon_groups": 8, "bigcode_one_key": 4}
TEXTS = torch.tensor([[3, 9, 4, 7, 20], [11, 2, 30, 5, 20]])  # different but for the last token


def fused_model(name: str) -> tuple[Any, dict[str, list[str]], dict[str, RoleConfig]]:
    kind, sizes, layer = FUSED[name]
    config = AutoConfig.for_model(kind, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    rows = {"query": 16, "key": KV_ROWS.get(name, 16), "value": KV_ROWS.get(name, 16)}
    return model, {layer: QKV}, {role: RoleConfig(f"{layer}.{role}", size, 16) for role, size in rows.items()}


def without(model: Any, role: str) -> Any:
    """A copy of an unfused model whose layers of a role give zeros."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Split):
            for parameter in module.get_submodule(role).parameters():
                nn.init.zeros_(parameter)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", FUSED)
def test_a_fused_projection_is_divided_into_what_its_roles_do(name: str) -> None:
    model, fused, roles = fused_model(name)
    expected, state = model(TEXTS).logits, copy.deepcopy(model.state_dict())
    unfuse(model, fused, roles)
    torch.testing.assert_close(model(TEXTS).logits, expected, rtol=1e-9, atol=1e-9)
    # Without values no token sees another; without queries or keys attention is the same whatever the text.
    last = without(model, "value")(TEXTS).logits[:, -1]
    torch.testing.assert_close(last[0], last[1])
    assert not torch.allclose(expected[0, -1], expected[1, -1])
    for role in ("query", "key"):
        first = without(model, role)(TEXTS, output_attentions=True).attentions[0]
        torch.testing.assert_close(first[0], first[1])
    assert not torch.allclose(*model(TEXTS, output_attentions=True).attentions[0])
    again = fused_state_dict(model)
    assert list(again) == list(state)
    assert all(torch.equal(again[key], state[key]) for key in state)


@torch.no_grad()
def test_deberta_v1_s_values_are_the_last_third_of_each_head_and_its_split_can_be_read_as_one() -> None:
    config = AutoConfig.for_model("deberta", **SMALL, relative_attention=True, pos_att_type="c2p|p2c")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention: Any = AutoModelForSequenceClassification.from_config(config).double().deberta.encoder.layer[0]
    attention = attention.attention.self
    whole = attention.in_proj.weight.clone()
    holder = nn.ModuleDict({"self": attention})
    unfuse(holder, {"self.in_proj": QKV})
    assert torch.equal(attention.in_proj.weight, whole)
    heads = whole.view(4, 3, 4, 16)  # (heads, roles, head size, width)
    for index, role in enumerate(QKV):
        assert torch.equal(attention.in_proj.get_submodule(role).weight, heads[:, index].flatten(0, 1))


def refusal(name: str, fused: dict[str, list[str]], roles: dict[str, RoleConfig]) -> str:
    model = fused_model(name)[0]
    before = [type(module) for module in model.modules()]
    with pytest.raises(UserError) as raised:
        unfuse(model, fused, roles)
    assert [type(module) for module in model.modules()] == before
    return str(raised.value)


def test_a_division_that_isn_t_the_model_s_is_refused() -> None:
    _, fused, roles = fused_model("phi3")
    (layer,) = fused
    assert "its rows are query, key, value" in refusal("phi3", {layer: ["key", "query", "value"]}, roles)
    assert "Name 3 layers" in refusal("phi3", {layer: ["query", "key"]}, {})
    equal = {role: replace(config, out_features=16) for role, config in roles.items()}
    assert "has 32 rows" in refusal("phi3", fused, equal)
    assert "isn't known here" in refusal("phi3", {"model.layers.*.mlp.down_proj": ["a", "b"]}, {})


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("phi3", "model.layers.*.self_attn.qkv_proj", r"query, key, value in one matrix(.|\n)*fused: \{model\.layers"),
        ("phi3", "model.layers.*.mlp.gate_up_proj", r"gate, ffn_up in one matrix"),
        ("gpt_neox", "gpt_neox.layers.*.attention.query_key_value", "in one matrix"),
        ("gpt2", "transformer.h.*.mlp.c_fc", "is a Conv1D"),
    ],
)
def test_a_fused_matrix_is_no_target(kind: str, layer: str, message: str) -> None:
    roles = {"query": RoleConfig(layer, 48, 16)}
    config = ModelConfig(name="own", architecture="causal_lm", layers=2, roles=roles)
    with pytest.raises(UserError, match=message):
        find_targets(fused_model(kind)[0], config, ["query"])


def test_two_roles_in_one_module_are_refused_whichever_is_asked_for() -> None:
    model, config = tiny_architecture("llama", "causal_lm")
    config.roles["key"] = config.roles["value"]
    with pytest.raises(UserError, match="key and value are both"):
        find_targets(model, config, ["query"])


def test_experts_in_one_parameter_are_named_where_a_role_asks_for_them() -> None:
    model, config = tiny_architecture("mixtral", "causal_lm")
    config.roles["ffn_up"] = RoleConfig("model.layers.*.mlp.experts.*.up_proj", 24, 16)
    with pytest.raises(UserError, match=r"parameters of three dimensions \(gate_up_proj, down_proj\)"):
        find_targets(model, config, ["ffn_up"])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_stacks_of_unequal_depth_are_targeted_and_counted_each_by_its_own(kind: str) -> None:
    model, config = tiny_architecture(kind, "seq2seq_lm")
    targets = find_targets(model, config, ["query", "ffn_up"])
    assert len(targets) == (3 + 1 + 1) + (3 + 1)  # encoder, decoder, its attention to the encoder; both feed-forwards
    injected = inject(model, LoRA, Setup(targets, rank=2, alpha=2.0), [])
    assert count(injected).adapter_trained == 5 * 2 * (16 + 16) + 4 * 2 * (24 + 16)
    config.layers_of = {"decoder.blocks": 1}
    with pytest.raises(UserError, match=r"layers_of: decoder\.blocks(.|\n)*Allowed: "):
        find_targets(model, config, ["query"])


def test_a_layer_sum_says_each_depth() -> None:
    model = tiny_architecture("t5", "seq2seq_lm")[1]
    config = CountConfig(model=model, rank=2)
    config.adapter.method, config.adapter.axes = "src.adapters.lora.LoRA", ["rank", "target"]
    config.target.roles = ["query", "ffn_up"]
    assert layer_sum(config) == "3 layers x (query 64 + ffn_up 80) + 1 layers x (query 2 x 64 + ffn_up 80)"


def test_a_layer_that_two_modules_share_is_adapted_in_both_and_counted_once() -> None:
    shared = nn.Linear(7, 7)
    model = nn.ModuleDict({"first": nn.Sequential(shared, nn.Tanh()), "second": nn.Sequential(shared)})
    injected = inject(model, LoRA, Setup(["first.0"], rank=2, alpha=2.0, generator=torch.Generator()), [])
    assert model["first"][0] is model["second"][0]  # type: ignore[index]
    assert len(adapters(injected.model)) == 1
    assert count(injected).adapter_trained == 28


def test_albert_s_shared_block_is_counted_once() -> None:
    model, config = tiny_architecture("albert", "classifier")
    injected = inject(model, LoRA, Setup(find_targets(model, config, ["query"]), rank=2, alpha=2.0), config.head)
    assert count(injected).adapter_trained == 2 * (16 + 16)


def drawn_lora(layer: nn.Linear, **options: Any) -> LoRA:
    adapter = LoRA(layer, rank=2, alpha=4.0, generator=torch.Generator().manual_seed(1), **options)
    nn.init.normal_(adapter.lora_B, generator=torch.Generator().manual_seed(2))
    return adapter


def attention_with(make: Callable[[nn.Linear], nn.Module]) -> nn.MultiheadAttention:
    """Attention whose output projection is wrapped; PyTorch's computes with that layer's weight itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.out_proj = make(attention.out_proj)  # type: ignore[assignment]
    return attention


def test_a_module_that_computes_with_an_adapter_s_weight_gets_the_merged_one_with_its_gradients() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))
    wrapped: Any = attention_with(drawn_lora)
    output = wrapped(x, x, x, need_weights=True)[0]
    merged: Any = attention_with(lambda layer: drawn_lora(layer).merge())
    torch.testing.assert_close(output, merged(x, x, x, need_weights=True)[0])
    output.square().sum().backward()
    merged(x, x, x)[0].square().sum().backward()
    slope = merged.out_proj.weight.grad  # of the merged weight W0 + 2 B A
    torch.testing.assert_close(wrapped.out_proj.lora_B.grad, 2 * slope @ wrapped.out_proj.lora_A.T)
    torch.testing.assert_close(wrapped.out_proj.lora_A.grad, 2 * wrapped.out_proj.lora_B.T @ slope)


def test_a_weight_that_is_only_asked_for_its_form_isn_t_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = drawn_lora(nn.Linear(5, 7).bfloat16())
    monkeypatch.setattr(LoRA, "merged_weight", lambda self: pytest.fail("merged"))
    assert isinstance(adapter.weight, Tensor)
    assert (adapter.weight.dtype, adapter.weight.shape) == (torch.bfloat16, (7, 5))
    assert (adapter.weight.device.type, adapter.weight.size(0)) == ("cpu", 7)


def test_a_weight_that_can_t_stand_for_the_adapter_is_refused() -> None:
    x = torch.zeros(1, 3, 8)
    with pytest.raises(UserError, match=r"dropout of its input has no place"):
        attention_with(lambda layer: drawn_lora(layer, dropout=0.1))(x, x, x)
    with pytest.raises(UserError, match="can't be merged"):
        attention_with(lambda layer: Houlsby(layer, rank=2, alpha=1.0, generator=torch.Generator()))(x, x, x)


def test_deberta_v1_s_biases_beside_its_fused_projection_are_trained() -> None:
    model, config = tiny_architecture("deberta", "classifier")
    injected = inject(model, BitFit, Setup(), config.head)
    trained = {name for name, parameter in injected.model.named_parameters() if parameter.requires_grad}
    for layer in (0, 1):
        assert {f"deberta.encoder.layer.{layer}.attention.self.{side}_bias" for side in "qv"} <= trained
    assert not any("embeddings.weight" in name for name in trained)


def test_bitfit_on_a_body_without_biases_is_refused_even_if_the_head_has_one() -> None:
    model, config = tiny_architecture("modernbert", "classifier")
    assert model.classifier.bias is not None
    with pytest.raises(UserError, match=r"BitFit finds nothing to train(.|\n)*adapter=head_only"):
        inject(model, BitFit, Setup(), config.head)
    assert count(inject(model, HeadOnly, Setup(), config.head)).trained > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gemma2_9b", "eager"), ("deberta_v2_xxl", "eager"), ("llama3_8b", "sdpa"), ("roberta_base", "sdpa")],
)
def test_shipped_models_get_the_attention_that_they_have(name: str, expected: str) -> None:
    task = "task=gsm8k" if name in ("gemma2_9b", "llama3_8b") else "task=docstrings"
    sizes = dict(composed(f"model={name}", task).model.sizes)
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    auto = AutoModelForCausalLM if "gsm8k" in task else AutoModelForSequenceClassification
    assert supported_attention(auto, config, "sdpa") == expected
    assert supported_attention(auto, config, "eager") == "eager"


@pytest.mark.parametrize(("kind", "architecture"), [pair for pair in KINDS if pair[1] == "classifier"])
def test_every_classifier_loads_where_fused_attention_is_asked_for(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    model = tiny_model(kind, architecture)
    folder = saved(tmp_path, model)
    head = [name for name in model._modules if name != model.base_model_prefix]
    heads = [name for name in head if list(model.get_submodule(name).parameters())]
    loaded = load_base(of_folder(folder, head=heads), num_labels=model.config.num_labels, attention="sdpa").module
    assert loaded.config._attn_implementation == ("sdpa" if type(model)._supports_sdpa else "eager")


def test_the_attention_that_was_used_is_recorded(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device("cpu", "like a GPU", "fp32", None, attention="sdpa")
    monkeypatch.setattr("src.training.precision.find_device", lambda precision: gpu)
    assert prepare(tiny("forgetting=none"), Path()).device.attention == "sdpa"
    monkeypatch.setattr("src.models.base_model.supported_attention", lambda *asked: "eager")
    assert prepare(tiny("forgetting=none", "model.init_seed=1"), Path()).device.attention == "eager"
