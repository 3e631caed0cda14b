"""Every architecture with every kind of method: trained where it says, merged, padded and restored without a change."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.adapters.base import Method, Setup
from src.adapters.bitfit import BitFit
from src.adapters.calibrate import update_directions
from src.adapters.dora import DoRA
from src.adapters.full import Full
from src.adapters.inject import InjectedModel, adapters, find_targets, inject
from src.adapters.ledger import closed_form, count
from src.adapters.lora import LoRA
from src.adapters.lora_fa import LoRAFA
from src.adapters.lora_sb import LoRASB
from src.adapters.peft_bridge import PeftBridge
from src.config.schema import ModelConfig
from src.errors import UserError
from src.training.loss import mean_loss
from tests.architectures import KINDS, tiny_architecture, tiny_batch

METHODS: list[type[Method]] = [LoRA, LoRAFA, LoRASB, DoRA, Full, BitFit, PeftBridge]
WITHOUT_BIASES = {"llama", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral", "t5", "modernbert"}  # but in the head
RANK = 3


def injected_model(model: Any, config: ModelConfig, method: type[Method], seed: int | None = 0) -> InjectedModel:
    model = copy.deepcopy(model)
    targets = find_targets(model, config, list(config.roles))
    setup = Setup(targets, rank=RANK, alpha=float(RANK), step_size=1e-3)
    setup.generator = None if seed is None else torch.Generator().manual_seed(seed)
    if method is PeftBridge:
        setup.config = {"_target_": "peft.LoraConfig"}
    if method.needs_gradient:
        kind = config.name.removeprefix("tiny_")
        batch = tiny_batch(kind, config.architecture)
        setup.update_directions = update_directions(model, targets, [batch], loss=loss_of(config), keep=RANK)
    injected = inject(model, method, setup, config.head)
    injected.model.eval()  # PEFT's own wrapper starts in training
    return injected


def loss_of(config: ModelConfig) -> Any:
    return (lambda model, batch: model(**batch).loss) if config.architecture == "seq2seq_lm" else mean_loss


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What a model says of each text: (rows, labels), or (tokens, vocabulary) without padding."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    if model.config.is_encoder_decoder and batch["labels"].dim() == 2:
        inputs["decoder_input_ids"] = batch["input_ids"]
        inputs["decoder_attention_mask"] = batch["attention_mask"]
    with torch.no_grad():
        said: Tensor = model(**inputs).logits
    return said if batch["labels"].dim() == 1 else said[batch["attention_mask"].bool()]


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One text of a batch without its padding."""
    length = int(batch["attention_mask"][row].sum())
    return {
        key: part[row : row + 1, :length] if part.dim() == 2 else part[row : row + 1] for key, part in batch.items()
    }


@torch.no_grad()
def move(injected: InjectedModel) -> None:
    """Change all that is trained, as training would, so that each part counts."""
    for index, parameter in enumerate(injected.model.parameters()):
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.add_(0.1 * noise)


def check(kind: str, architecture: str, method: type[Method]) -> None:
    model, config = tiny_architecture(kind, architecture)
    if method is BitFit and kind in WITHOUT_BIASES:
        with pytest.raises(UserError, match=r"has none|nothing to train"):
            injected_model(model, config, method)
        return
    batch = tiny_batch(kind, architecture)
    injected = injected_model(model, config, method)
    move(injected)
    loss_of(config)(injected.model, batch).backward()
    untouched = [name for name, parameter in injected.model.named_parameters() if misses_gradient(name, parameter)]
    assert not untouched
    expected = logits(injected.model, batch)
    assert not torch.allclose(expected, logits(model, batch), atol=1e-3)
    for row in (0, 1):
        own = torch.zeros(2, batch["input_ids"].shape[1], dtype=torch.bool)
        own[row] = True
        part = expected[row : row + 1] if batch["labels"].dim() == 1 else expected[own[batch["attention_mask"].bool()]]
        torch.testing.assert_close(logits(injected.model, alone(batch, row)), part, rtol=1e-5, atol=1e-5)
    if wrapped := adapters(injected.model):
        assert count(injected).adapter_trained == closed_form(injected)
        merged = copy.deepcopy(injected.model)
        for name, adapter in wrapped.items():
            merged.set_submodule(name, adapter.merge())
        torch.testing.assert_close(logits(merged, batch), expected, rtol=1e-6, atol=1e-6)
    again = injected_model(model, config, method, 1 if method is PeftBridge else None)
    again.load(injected.state())
    assert torch.equal(logits(again.model, batch), expected)


def misses_gradient(name: str, parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and (parameter.grad is None or ("lora" in name and not parameter.grad.any()))


@pytest.mark.parametrize(("kind", "architecture"), KINDS)
def test_lora_on_every_architecture(kind: str, architecture: str) -> None:
    check(kind, architecture, LoRA)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize(("kind", "architecture"), KINDS)
def test_every_method_on_every_architecture(kind: str, architecture: str, method: type[Method]) -> None:
    check(kind, architecture, method)
