"""What is recorded as a CUDA graph, and the widths that come again; that it trains the same is in tests/test_gpu.py."""

import pytest
import torch
from torch import nn

from src.training.batches import collate
from src.training.graphs import WIDTHS, can_record, widened
from tests.test_adapters import LINEAR, adapter_of, method_class, setup

PAD = 7


def batch_of(lengths: list[int], *, pairs: bool = False) -> dict[str, torch.Tensor]:
    types = {"token_type_ids": [1, 1, 1]} if pairs else {}
    examples = [
        {"input_ids": list(range(10, 10 + length)), "labels": index % 2, **{key: [1] * length for key in types}}
        for index, length in enumerate(lengths)
    ]
    return collate(examples, PAD)


@pytest.mark.parametrize(("longest", "width"), [(64, 32), (32, 32), (20, 20), (18, 18), (16, 18)])
def test_a_batch_is_padded_to_a_width_that_comes_again_but_to_no_more_than_the_longest_text(
    longest: int, width: int
) -> None:
    batch = batch_of([18, 5], pairs=True)
    wide = widened(batch, PAD, longest)
    assert wide.keys() == batch.keys()
    assert wide["input_ids"].shape == wide["attention_mask"].shape == wide["token_type_ids"].shape == (2, width)
    assert torch.equal(wide["input_ids"][:, :18], batch["input_ids"])
    assert (wide["input_ids"][:, 18:] == PAD).all()
    assert (wide["attention_mask"].sum(1) == torch.tensor([18, 5])).all()
    assert (wide["token_type_ids"].sum(1) == torch.tensor([18, 5])).all()
    assert torch.equal(wide["labels"], batch["labels"])


def test_a_batch_of_such_a_width_stays() -> None:
    batch = batch_of([2 * WIDTHS, 3])
    assert all(torch.equal(batch[name], tensor) for name, tensor in widened(batch, PAD, 999).items())


@pytest.mark.parametrize("name", LINEAR)
def test_a_method_is_recorded_unless_its_steps_differ_in_shape(name: str) -> None:
    model = nn.Sequential(adapter_of(name, setup()))
    assert can_record(model) == (name != "dylora") == method_class(name).replayable


def test_neither_a_mask_by_a_seed_of_the_host_nor_a_model_of_peft_is_recorded() -> None:
    assert not can_record(nn.Sequential(adapter_of("lora", setup(dropout=0.1))))
    model = nn.Sequential(adapter_of("lora", setup()))
    model.peft_config = {}  # type: ignore[assignment]
    assert not can_record(model)
