"""Gradients of a batch's parts add up to the whole batch's, and a step that doesn't fit is done in smaller ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
)

from src.errors import UserError
from src.results.store import ADAPTER
from src.training.batches import IGNORED, collate
from src.training.loss import mean_loss
from src.training.micro_batches import micro_batches_of
from tests.test_training import Make, run

VOCABULARY, WIDTH = 50, 16
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "language model":
        return LlamaForCausalLM(LlamaConfig(**SIZES))
    labels, problem = (1, "regression") if kind == "regression" else (3, "single_label_classification")
    config: Any = BertConfig
    return BertForSequenceClassification(config(**SIZES, num_labels=labels, problem_type=problem)).eval()


def batch_of(kind: str, texts: int) -> dict[str, Tensor]:
    """Texts of different lengths, with answers of different lengths."""
    generator = torch.Generator().manual_seed(texts)
    examples: list[dict[str, Any]] = []
    for index in range(texts):
        ids = torch.randint(1, VOCABULARY, (4 + 5 * (index % 4),), generator=generator).tolist()
        answer = 1 + index % 3
        labels: Any = [IGNORED] * (len(ids) - answer) + ids[-answer:]
        if kind != "language model":
            labels = 0.3 * index if kind == "regression" else index % 3
        examples.append({"input_ids": ids, "labels": labels})
    return collate(examples, pad_token_id=0)


def gradients(model: nn.Module, batch: dict[str, Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch computed in parts, and all gradients."""
    model.zero_grad()
    total = torch.zeros(())
    for part in micro_batches_of(batch, size):
        loss = mean_loss(model, part.batch) * part.share
        loss.backward()
        total += loss.detach()
    return total, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("size", [1, 4, 5, 16, 99])
@pytest.mark.parametrize("kind", ["classifier", "regression", "language model"])
def test_gradients_of_parts_add_up_to_those_of_the_batch(kind: str, size: int) -> None:
    model, batch = model_of(kind), batch_of(kind, 16)
    loss, whole = gradients(model, batch, 16)
    in_parts, added = gradients(model, batch, size)
    assert float(in_parts) == pytest.approx(float(loss), rel=1e-6)
    for one, other in zip(whole, added, strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(one.norm()) + 1e-7


def test_a_mean_of_the_parts_means_would_be_another_loss() -> None:
    model, batch = model_of("language model"), batch_of("language model", 16)
    parts = list(micro_batches_of(batch, 5))
    means = [float(mean_loss(model, part.batch).detach()) for part in parts]
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert len({part.share for part in parts}) > 1
    assert abs(sum(means) / len(means) - float(mean_loss(model, batch).detach())) > 1e-4


def test_a_part_is_as_wide_as_its_longest_text() -> None:
    batch = batch_of("classifier", 8)
    widths = [part.batch["input_ids"].shape[1] for part in micro_batches_of(batch, 1)]
    assert widths == batch["attention_mask"].sum(1).tolist()


def test_a_part_without_a_label_is_left_out() -> None:
    batch = batch_of("language model", 4)
    batch["labels"][:2] = IGNORED
    parts = list(micro_batches_of(batch, 2))
    assert [part.share for part in parts] == [1.0]
    assert torch.equal(parts[0].batch["input_ids"], batch["input_ids"][2:])


@pytest.mark.parametrize("adapter", ["lora", "dylora", "lora_fa"])
def test_a_run_in_parts_trains_what_one_in_whole_batches_does(adapter: str, tiny: Make, tmp_path: Path) -> None:
    common = [f"adapter={adapter}", "rank=3", "trainer.max_steps=4", "trainer.batch_size=8", "trainer.precision=fp32"]
    whole = run(tiny(*common), tmp_path / "whole")
    parts = run(tiny(*common, "trainer.micro_batch_size=3"), tmp_path / "parts")
    losses = [[point["loss"] for point in record["history"] if "loss" in point] for record in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert whole["identity"] == parts["identity"]
    assert (whole["memory"]["micro_batch_size"], parts["memory"]["micro_batch_size"]) == (8, 3)
    assert parts["memory"]["saved_for_backward_bytes"] < 0.6 * whole["memory"]["saved_for_backward_bytes"]
    assert whole["memory"]["tokens"] == parts["memory"]["tokens"]
    tensors = [load_file(tmp_path / name / ADAPTER) for name in ("whole", "parts")]
    for name, tensor in tensors[0].items():
        assert torch.allclose(tensors[1][name], tensor, atol=2e-4), name


def test_a_step_that_does_not_fit_is_done_in_halves_from_then_on(
    tiny: Make, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer.training_step

    def small(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, model, inputs, *args, **kwargs)
        if len(inputs["labels"]) > 3:
            raise torch.OutOfMemoryError("no room")
        return loss

    common = ["adapter=lora", "rank=3", "adapter.options.dropout=0.2", "trainer.max_steps=3", "trainer.batch_size=8"]
    asked = run(tiny(*common, "trainer.micro_batch_size=2"), tmp_path / "asked")
    monkeypatch.setattr(Trainer, "training_step", small)
    found = run(tiny(*common), tmp_path / "found")
    assert found["memory"]["micro_batch_size"] == 2
    assert found["tensors"] == asked["tensors"]
    told = capsys.readouterr()
    assert "out of memory: going on with trainer.micro_batch_size=2" in told.out + told.err
    with pytest.raises(torch.OutOfMemoryError):
        run(tiny(*common, "trainer.micro_batch_size=4"), tmp_path / "kept")


def test_one_text_that_does_not_fit_ends_the_run(tiny: Make, tmp_path: Path, monkeypatch: Any) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Trainer, "training_step", never)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        run(tiny("adapter=lora", "rank=3"), tmp_path)


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "33", "many"])
def test_a_part_that_is_none_is_refused(size: str, tiny: Make) -> None:
    with pytest.raises(UserError, match=r"micro_batch_size"):
        tiny("trainer.batch_size=32", f"trainer.micro_batch_size={size}")
