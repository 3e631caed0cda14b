"""A LoRA training step of a language model with logits where labels are, beside one with logits everywhere.

    python -m benchmarks.answer_logits

A decoder of 23 million parameters with Llama 2's vocabulary of 32,000 and random weights, rank 8 on all linear layers,
batches of 8 texts of 256 tokens, of which the last `answer` are the answer. Writes `benchmarks/answer_logits.json`.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from src.adapters.base import Setup
from src.adapters.inject import inject
from src.adapters.lora import LoRA
from src.quiet import quiet_libraries
from src.training.batches import IGNORED
from src.training.device import Device, find_device
from src.training.loss import mean_loss

STEPS, BATCH, TOKENS, VOCABULARY = 11, 8, 256, 32_000
WARM_UP = 3
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


def everywhere(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss that transformers computes from the logits of all positions."""
    loss: Tensor = model(**batch).loss
    return loss


def adapted(device: Device) -> nn.Module:
    """The model with LoRA on it."""
    generator = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    }
    config = LlamaConfig(vocab_size=VOCABULARY, **sizes)
    config._attn_implementation = device.attention
    model: Any = LlamaForCausalLM(config)
    model.to(device.type)
    targets = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    return inject(model, LoRA, Setup(targets, rank=8, alpha=16.0, generator=generator), head=[]).model


def batch_of(answer: int, device: Device) -> dict[str, Tensor]:
    """Random texts whose last `answer` tokens are to be learned."""
    ids = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :-answer] = IGNORED
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {key: tensor.to(device.type) for key, tensor in batch.items()}


def step(model: nn.Module, batch: dict[str, Tensor], loss: Loss, device: Device) -> tuple[float, int]:
    """Seconds of a forward and a backward pass, and the bytes that autograd kept for the latter."""
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    start = time.perf_counter()
    with device.autocast(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(model, batch)
    value.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, sum(kept.values())


def main() -> None:
    """Measure answers of several lengths, the two losses in turn, and write what came out."""
    quiet_libraries()
    device = find_device("auto")
    model, rows = adapted(device), []
    for answer in (16, 64, 255):
        batch, kept = batch_of(answer, device), {}
        seconds: dict[str, list[float]] = {}
        for name, loss in [("everywhere", everywhere), ("where_labels_are", mean_loss)] * STEPS:
            took, kept[name] = step(model, batch, loss, device)
            seconds.setdefault(name, []).append(took)
        row: dict[str, object] = {"answer_tokens": answer}
        for name, times in seconds.items():
            row[f"{name}_milliseconds"] = round(1000 * median(times[WARM_UP:]), 1)
            row[f"{name}_kept_megabytes"] = round(kept[name] / 1e6, 1)
        rows.append(row)
        print(row, flush=True)
    written = {"machine": device.name, "precision": device.precision, "steps": rows}
    Path("benchmarks/answer_logits.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
