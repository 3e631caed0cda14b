"""Checkpointed blocks, losses in chunks, coarse moments and a coarse base give what the plain ones give, or near it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from src.errors import UserError
from src.results.store import ADAPTER
from src.training import loss as losses
from src.training.batches import IGNORED
from src.training.checkpointing import check_checkpointing
from src.training.loss import ends_with_head, mean_loss
from tests.conftest import composed
from tests.test_training import Make, run

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


def language_model(kind: str) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)) if kind == "llama" else Gemma2ForCausalLM(Gemma2Config(**SIZES))


def batch_of(texts: int) -> dict[str, Tensor]:
    ids = torch.randint(1, VOCABULARY, (texts, 13), generator=torch.Generator().manual_seed(texts))
    labels = ids.clone()
    for text in range(texts):
        labels[text, : 3 + text] = IGNORED
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def loss_and_gradients(model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss = mean_loss(model, batch)
    loss.backward()
    return [loss.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)]


@pytest.mark.parametrize("at_once", [1, 5 * VOCABULARY, 7 * VOCABULARY + 3])
def test_a_loss_in_chunks_and_its_gradients_are_those_of_the_whole(at_once: int, monkeypatch: Any) -> None:
    model, batch = language_model("llama"), batch_of(5)
    whole = loss_and_gradients(model, batch)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", at_once)
    for one, other in zip(whole, loss_and_gradients(model, batch), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


def test_fewer_logits_are_kept_for_backward(monkeypatch: Any) -> None:
    model, batch = language_model("llama"), batch_of(5)

    def wide() -> int:
        """How many tokens' logits are kept."""
        shapes: list[torch.Size] = []
        weights = {one.untyped_storage().data_ptr() for one in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                shapes.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mean_loss(model, batch)
        return sum(shape[0] for shape in shapes if len(shape) == 2 and shape[1] == VOCABULARY)

    before = wide()
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 4 * VOCABULARY)
    assert before > 0
    assert wide() == 0


def test_a_cap_after_the_output_layer_is_seen(monkeypatch: Any) -> None:
    """Gemma 2 caps its logits: in chunks straight from the output layer the loss would be another."""
    batch = batch_of(4)
    assert ends_with_head(language_model("llama"), batch)
    model = language_model("gemma2")
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
    assert not ends_with_head(model, batch)
    whole = loss_and_gradients(model, batch)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", VOCABULARY)
    for one, other in zip(whole, loss_and_gradients(model, batch), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "overrides",
    [
        ["adapter=lora", "adapter.options.dropout=0.2"],
        *(pytest.param([name], marks=pytest.mark.slow)
          for name in ("adapter=lora", "adapter=dora", "adapter=lora_sb", "adapter=peft/vera")),
    ],
)  # fmt: skip
def test_checkpointed_blocks_train_to_the_same_bits_and_keep_less(
    overrides: list[str], tiny: Make, tmp_path: Path
) -> None:
    common = [*overrides, "rank=2", "trainer.max_steps=3", "+model.config.attention_dropout=0.1"]
    plain = run(tiny(*common), tmp_path / "plain")
    again = run(tiny(*common, "trainer.checkpointing=true"), tmp_path / "again")
    first, second = (load_file(tmp_path / name / ADAPTER) for name in ("plain", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert plain["identity"] == again["identity"]
    assert again["memory"]["saved_for_backward_bytes"] < 0.6 * plain["memory"]["saved_for_backward_bytes"]


def test_a_model_without_blocks_to_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.checkpointing=true(.|\n)*model=mine(.|\n)*micro_batch_size"):
        check_checkpointing(nn.Linear(3, 3), "mine")


def test_moments_in_8_bits_train_nearly_as_exact_ones(tiny: Make, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed: pip install -e '.[quantization]'")
    common = ["adapter=lora", "rank=4", "trainer.max_steps=4", "trainer.precision=fp32"]
    exact = run(tiny(*common), tmp_path / "exact")
    coarse = run(tiny(*common, "trainer.optimizer=adamw_8bit"), tmp_path / "coarse")
    assert coarse["history"][-1]["loss"] == pytest.approx(exact["history"][-1]["loss"], rel=1e-3)
    assert exact["identity"] != coarse["identity"]


@pytest.mark.parametrize("name", ["adamw_paged", "adamw_paged_8bit"])
def test_pages_that_a_cpu_would_have_to_take_up_are_refused_on_one(name: str, tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"trainer.optimizer={name} needs a GPU(.|\n)*adamw_8bit"):
        run(tiny("adapter=lora", "rank=2", f"trainer.optimizer={name}", "trainer.max_steps=1"), tmp_path / "out")


def test_a_missing_package_is_named_with_its_command(tiny: Make, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[quantization\]'"):
        run(tiny("adapter=lora", "rank=2", "trainer.optimizer=adamw_8bit", "trainer.max_steps=1"), tmp_path / "out")


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.optimizer=adamw8(.|\n)*Allowed: adamw"):
        composed("trainer.optimizer=adamw8")
