"""Houlsby's bottleneck follows the dropout of its sub-layer, wherever a model keeps that dropout."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.base import Setup
from src.adapters.houlsby import Houlsby
from src.adapters.inject import inject
from src.errors import UserError

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 5}
BERT = ["bert.encoder.layer.0.attention.output.dense", "bert.encoder.layer.1.output.dense"]
LARGE = 0.9  # a dropout that no chance hides


def model_of(name: str, **sizes: Any) -> Any:
    config = getattr(transformers, name.partition("For")[0].replace("LMHeadModel", "") + "Config")(**sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, name)(config)


def adapted(model: Any, targets: list[str], rank: int = 3) -> Any:
    """Houlsby on the model, with a bottleneck that has been trained somewhat."""
    setup = Setup(target_modules=targets, rank=rank, generator=torch.Generator().manual_seed(0))
    inject(model, Houlsby, setup, head=[])
    for index, name in enumerate(targets):
        for key in ("down", "up", "up_bias"):
            generator = torch.Generator().manual_seed(index)
            nn.init.normal_(model.get_submodule(name).get_parameter(key), std=0.5, generator=generator)
    return model.train()


def bottleneck(adapter: Any, h: Tensor) -> Tensor:
    """The formula of the paper's figure 2, in functions alone."""
    outputs: Tensor = h + F.gelu(h @ adapter.down.T + adapter.down_bias) @ adapter.up.T + adapter.up_bias
    return outputs


@pytest.mark.parametrize("place", ["attention", "feed-forward"])
def test_a_trained_sublayer_of_bert_drops_then_adapts_then_adds(place: str) -> None:
    model = adapted(model_of("BertForSequenceClassification", hidden_dropout_prob=0.4, **SMALL), BERT)
    attention, feed_forward = model.bert.encoder.layer[0].attention.output, model.bert.encoder.layer[1].output
    sublayer, width = (attention, 16) if place == "attention" else (feed_forward, 32)
    generator = torch.Generator().manual_seed(1)
    x, residual = (torch.randn(2, 7, n, generator=generator) for n in (width, 16))
    adapter = sublayer.dense
    torch.manual_seed(3)
    dropped = F.dropout(F.linear(x, adapter.base_layer.weight, adapter.base_layer.bias), 0.4)
    expected = F.layer_norm(bottleneck(adapter, dropped) + residual, (16,), sublayer.LayerNorm.weight,
                            sublayer.LayerNorm.bias, sublayer.LayerNorm.eps)  # fmt: skip
    torch.manual_seed(3)
    torch.testing.assert_close(sublayer(x, residual), expected)


@pytest.mark.parametrize(
    ("name", "sizes", "dropouts"),
    [
        ("BertForSequenceClassification", SMALL, dict.fromkeys(BERT, True)),
        ("RobertaForSequenceClassification", SMALL | {"vocab_size": 50},
         {"roberta.encoder.layer.1.attention.output.dense": True, "roberta.encoder.layer.0.output.dense": True}),
        # its attention has a dropout beside the projection that acts on the attention's weights
        ("DistilBertForSequenceClassification",
         {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
         {"distilbert.transformer.layer.0.attention.out_lin": False, "distilbert.transformer.layer.0.ffn.lin2": True}),
        # one block for all layers
        ("AlbertForSequenceClassification", SMALL | {"embedding_size": 8, "hidden_dropout_prob": 0.1},
         {"albert.encoder.albert_layer_groups.0.albert_layers.0.attention.dense": True,
          "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output": False}),
        # the dropout is two modules further out
        ("T5ForConditionalGeneration",
         {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50,
          "decoder_start_token_id": 0},
         {"encoder.block.0.layer.0.SelfAttention.o": True, "decoder.block.0.layer.1.EncDecAttention.o": True}),
        ("LlamaForCausalLM", SMALL | {"eos_token_id": 1, "bos_token_id": 2},
         {"model.layers.0.self_attn.o_proj": False, "model.layers.1.mlp.down_proj": False}),
        ("GPTNeoXForCausalLM", SMALL | {"hidden_dropout": 0.1},
         {"gpt_neox.layers.0.attention.dense": True, "gpt_neox.layers.1.mlp.dense_4h_to_h": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_dropout_is_found_by_what_it_is_given(name: str, sizes: dict[str, Any], dropouts: dict[str, bool]) -> None:
    model = model_of(name, **sizes)
    before = torch.get_rng_state()
    inject(model, Houlsby, Setup(target_modules=list(dropouts), rank=2, generator=torch.Generator()), head=[])
    assert torch.equal(torch.get_rng_state(), before)
    found = {target: type(model.get_submodule(target).sublayer_dropout) for target in dropouts}
    assert found == {target: nn.Dropout if has else nn.Identity for target, has in dropouts.items()}
    assert not any(hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))


@pytest.mark.parametrize(
    ("name", "sizes", "target"),
    [
        ("BartForSequenceClassification",
         {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
          "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50},
         "model.encoder.layers.0.fc2"),
        ("OPTForCausalLM", {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                            "vocab_size": 50, "word_embed_proj_dim": 16}, "model.decoder.layers.0.self_attn.out_proj"),
    ],
    ids=["BART", "OPT"],
)  # fmt: skip
def test_a_dropout_that_is_no_module_is_refused_unless_it_drops_nothing(
    name: str, sizes: dict[str, Any], target: str
) -> None:
    setup = Setup(target_modules=[target], rank=2, generator=torch.Generator())
    with pytest.raises(
        UserError, match=rf"{name} has the dropout after {target} in a place (.|\n)*Set that dropout to 0"
    ):
        inject(model_of(name, **sizes), Houlsby, setup, head=[])
    inject(model_of(name, **sizes, dropout=0.0), Houlsby, setup, head=[])


def test_a_dropout_that_serves_another_layer_too_is_refused() -> None:
    model = model_of("BertForSequenceClassification", **SMALL)
    model.bert.encoder.layer[1].output.dropout = model.bert.encoder.layer[0].output.dropout
    with pytest.raises(UserError, match="in a place where nothing can follow it alone"):
        adapted(model, ["bert.encoder.layer.0.output.dense"])


def test_a_layer_whose_output_goes_into_two_dropouts_is_refused() -> None:
    model = model_of("BertForSequenceClassification", **SMALL)
    output = model.bert.encoder.layer[0].output
    output.second = nn.Dropout(0.1)
    output.register_forward_hook(lambda module, inputs, outputs: outputs + module.second(module.seen))
    output.dense.register_forward_hook(lambda module, inputs, outputs: setattr(output, "seen", outputs))
    with pytest.raises(UserError, match="in a place where nothing can follow it alone"):
        adapted(model, ["bert.encoder.layer.0.output.dense"])


def test_a_model_that_runs_on_no_tokens_is_refused_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("BertForSequenceClassification", **SMALL).train()
    model.bert.encoder.layer[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    monkeypatch.setattr(model.bert.encoder, "forward", lambda *inputs, **others: 1 / 0)
    with pytest.raises(UserError, match=r"doesn't run on a few tokens, .*: division by zero\nChoose another adapter"):
        inject(model, Houlsby, Setup(target_modules=BERT, rank=2, generator=torch.Generator()), head=[])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))


def test_the_dropout_before_the_bottleneck_is_no_parameter_and_off_in_evaluation() -> None:
    model = model_of("BertForSequenceClassification", hidden_dropout_prob=LARGE, **SMALL)
    plain = {name for name, _ in model.named_parameters()}
    adapted(model, BERT).eval()
    names = {name.replace("base_layer.", "") for name, _ in model.named_parameters()}
    assert {name.rpartition(".")[2] for name in names - plain} == {"down", "down_bias", "up", "up_bias"}
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)
