"""Estimate the first step of full fine-tuning for the target matrices (LoRA-SB's start).

The gradient of each target's weight is summed over probe batches; at the last batch it is taken layer by layer,
as backward produces it: sign, decomposition in float32, and the gradient is freed. With one probe batch no two
layers' gradients exist at once; with more, the targets' sums do between batches, since a sign can't be summed.
Gradients of embeddings, norms and the head are never computed, and the global random state is left alone.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from src.adapters.base import UpdateDirection


def update_directions(
    model: nn.Module, targets: list[str], batches: Iterable[dict[str, Tensor]], *, keep: int | None = None
) -> dict[str, UpdateDirection]:
    """Decompose -sign(G) of every target, G the gradient of the loss summed over all samples.

    Args:
        model: returns an object with the mean `loss` of each batch; left frozen and in its mode.
        targets: names of linear modules, weight (out_features, in_features).
        batches: probe batches of the training split, `input_ids` (batch, seq) among their tensors.
        keep: how many singular vectors to keep of each target, all by default.
    """
    batches = list(batches)
    mode = model.training
    model.eval().requires_grad_(False)
    found: dict[str, UpdateDirection] = {}
    weights = {name: _weight(model, name) for name in targets}
    for weight in weights.values():
        weight.requires_grad_(True)
    for batch in batches[:-1]:
        _backward(model, batch)
    hooks = [weight.register_post_accumulate_grad_hook(_take(name, found, keep)) for name, weight in weights.items()]
    _backward(model, batches[-1])
    for hook in hooks:
        hook.remove()
    model.requires_grad_(False).train(mode)
    return {name: found[name] for name in targets}


def _backward(model: nn.Module, batch: dict[str, Tensor]) -> None:
    (model(**batch).loss * len(batch["input_ids"])).backward()


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _take(name: str, found: dict[str, UpdateDirection], keep: int | None) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        assert weight.grad is not None
        U, S, Vh = torch.linalg.svd(-weight.grad.float().sign(), full_matrices=False)
        found[name] = UpdateDirection(*(factor.cpu().contiguous() for factor in (U[:, :keep], S[:keep], Vh[:keep])))
        weight.grad = None

    return hook
