"""Estimate the first step of full fine-tuning for the target matrices (LoRA-SB's start).

The gradient of each target's weight is summed over probe batches; at the last batch it is taken layer by layer,
as backward produces it: sign, decomposition in float32, and the gradient is freed. With one probe batch no two
layers' gradients exist at once; with more, the targets' sums do between batches, since a sign can't be summed.
Gradients of embeddings, norms and the head are never computed, and the global random state is left as it was.

A quantized weight can't have a gradient. There the layer's output stands in for it: with X (tokens, in_features) and
the gradient of the output dY (tokens, out_features), the gradient of the weight is dY^T X.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from src.adapters.base import UpdateDirection
from src.adapters.decomposition import first_factors

Take = Callable[[Tensor], None]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


def model_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The mean loss that the model itself returns for a batch."""
    loss: Tensor = model(**batch).loss
    return loss


def update_directions(
    model: nn.Module,
    targets: list[str],
    batches: Iterable[dict[str, Tensor]],
    *,
    loss: Loss = model_loss,
    keep: int | None = None,
    dropout_seed: int | None = None,
) -> dict[str, UpdateDirection]:
    """Decompose -sign(G) of every target, G the gradient of the loss summed over all samples.

    Args:
        model: left frozen and in its mode.
        targets: names of linear modules, weight (out_features, in_features).
        batches: probe batches of the training split, `input_ids` (batch, seq) among their tensors.
        loss: the mean loss of a model over a batch.
        keep: how many singular vectors to keep of each target, all by default.
        dropout_seed: of the masks where the model's dropout acts in the probe; by default it doesn't.
    """
    batches = list(batches)
    mode = model.training
    model.train(dropout_seed is not None).requires_grad_(False)
    directions: dict[str, UpdateDirection] = {}
    weights = {name: _weight(model, name) for name in targets}
    dense = {name: weight for name, weight in weights.items() if weight.is_floating_point()}
    for weight in dense.values():
        weight.requires_grad_(True)
    sums = {name: _Sum(model.get_submodule(name)) for name in targets if name not in dense}
    with _drawing(dropout_seed):
        for batch in batches[:-1]:
            _backward(model, batch, loss)
        # Only now, since a gradient is freed once it is taken: until here they add up.
        hooks = [
            weight.register_post_accumulate_grad_hook(_take(name, directions, keep)) for name, weight in dense.items()
        ]
        for name, gradient_sum in sums.items():
            gradient_sum.when_complete = _decompose_into(directions, name, keep)
        _backward(model, batches[-1], loss)
    for hook in [*hooks, *(gradient_sum.hook for gradient_sum in sums.values())]:
        hook.remove()
    model.requires_grad_(False).train(mode)
    # In the targets' order; backward came to the last layer first.
    return {name: directions[name] for name in targets}


class _Sum:
    """The gradient of a quantized layer's weight, summed over the backward passes since it was made."""

    def __init__(self, layer: nn.Module) -> None:
        self.total: Tensor | None = None
        self.pending = 0  # calls of the layer whose backward pass is still to come
        self.when_complete: Take | None = None
        self.hook = layer.register_forward_hook(self._on_forward)

    def _on_forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach().flatten(0, -2)  # (tokens, in_features)
        self.pending += 1
        if not output.requires_grad:  # no earlier layer of the model has a weight that does
            output.requires_grad_(True)
        output.register_hook(lambda gradient: self._add(gradient.flatten(0, -2).T @ x))

    def _add(self, gradient: Tensor) -> None:
        self.total = gradient if self.total is None else self.total + gradient
        self.pending -= 1
        if self.when_complete is not None and self.pending == 0:
            self.when_complete(self.total)
            self.total = None


@contextmanager
def _drawing(seed: int | None) -> Iterator[None]:
    """Let dropout, which knows only the global random state, draw from `seed`, and put that state back."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _backward(model: nn.Module, batch: dict[str, Tensor], loss: Loss) -> None:
    (loss(model, batch) * len(batch["input_ids"])).backward()


def _weight(model: nn.Module, name: str) -> nn.Parameter:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _take(name: str, directions: dict[str, UpdateDirection], keep: int | None) -> Take:
    decompose = _decompose_into(directions, name, keep)

    def hook(weight: Tensor) -> None:
        assert weight.grad is not None
        decompose(weight.grad)
        weight.grad = None

    return hook


def _decompose_into(directions: dict[str, UpdateDirection], name: str, keep: int | None) -> Take:
    def decompose(gradient: Tensor) -> None:
        # Drawn by the name alone: which other targets there are changes nothing.
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        factors, residual = first_factors(-gradient.float().sign(), keep, generator)
        U, S, Vh = (factor.cpu().contiguous() for factor in factors)
        directions[name] = UpdateDirection(U, S, Vh, residual)

    return decompose
