"""The loss of a language model with logits where labels are and nowhere else, against the loss over all positions."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from src.models.base_model import load_base
from src.training.batches import collate
from src.training.loss import answer_logits, mean_loss
from tests.conftest import composed

EXAMPLES = [
    {"input_ids": [68, 69, 32, 69, 68, 1], "labels": [-100, -100, -100, 69, 68, 1]},
    {"input_ids": [70, 32, 70, 1], "labels": [-100, -100, 70, 1]},
    {"input_ids": [70, 71, 72, 73, 32, 73, 1], "labels": [-100] * 6 + [1]},
]
LABELS = 3 + 2 + 1


def tiny() -> PreTrainedModel:
    model = load_base(composed("model=tiny_llama", "task=reverse_words").model, num_labels=0, attention="eager").module
    return model.requires_grad_(True)


def whole_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The mean over all labels from the logits of all positions."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)


def test_the_loss_and_its_gradients_are_those_over_all_positions() -> None:
    model, batch = tiny(), collate(EXAMPLES, pad_token_id=0)
    gradients = []
    for loss in (mean_loss(model, batch), whole_loss(model, batch), model(**batch).loss):
        model.zero_grad()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for tensor, *expected in zip(*gradients, strict=True):
        for other in expected:
            torch.testing.assert_close(tensor, other, rtol=1e-5, atol=1e-7)


def test_the_output_layer_sees_no_position_that_no_label_follows() -> None:
    model, batch, seen = tiny(), collate(EXAMPLES, pad_token_id=0), []
    hook = model.get_output_embeddings().register_forward_hook(lambda layer, inputs, output: seen.append(output.shape))
    logits, labels, rows = answer_logits(model, batch)
    hook.remove()
    assert seen == [logits.shape] == [(LABELS, model.config.vocab_size)]
    assert labels.tolist() == [69, 68, 1, 70, 1, 1]
    assert rows.tolist() == [0, 0, 0, 1, 1, 2]


def test_the_model_gives_all_its_logits_again_afterwards() -> None:
    model, batch = tiny(), collate(EXAMPLES, pad_token_id=0)
    mean_loss(model, batch)
    assert model(input_ids=batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_what_a_method_puts_before_the_text_has_no_part_in_the_loss(method: str) -> None:
    from src.adapters.base import Setup
    from src.adapters.inject import inject
    from src.running.assemble import method_of

    config = composed("model=tiny_llama", "task=reverse_words", f"adapter=peft/{method}", "rank=5")
    setup = Setup(rank=5, config=config.adapter.config, generator=torch.Generator().manual_seed(0))
    base: Any = load_base(config.model, num_labels=0, attention="eager")
    model: Any = inject(base.fresh_copy([], torch.Generator()), method_of(config), setup, []).model.eval()
    batch = collate(EXAMPLES, pad_token_id=0)
    torch.testing.assert_close(mean_loss(model, batch), model(**batch).loss)
    assert mean_loss(model, batch) != mean_loss(base.module, batch)


def test_training_keeps_less_for_backward_than_all_logits_would_take() -> None:
    model, batch = tiny(), collate(EXAMPLES * 20, pad_token_id=0)

    def kept(loss: Any) -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss(model, batch)
        return sum(sizes.values())

    spared = batch["input_ids"].numel() - 20 * LABELS
    assert kept(whole_loss) - kept(mean_loss) >= spared * model.config.vocab_size * 4
