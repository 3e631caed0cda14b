"""Training steps recorded as CUDA graphs: a small model's step takes as long as its kernels, not as their launches.

A step of the same shape launches the same thousand kernels again. The second time that a shape comes its loss and
gradients are recorded beside the plain step's, and taken over if the recording gives the same; from then on it is
replayed. Methods whose steps differ in more than numbers aren't recorded, nor models that look at their numbers.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.inject import adapters
from src.errors import first_line

WIDTHS = 16  # texts are padded to multiples of so many tokens, so that shapes come again
# Of the gradients' norm. Kernels that add in another order each time differ in bfloat16's last digits.
TOLERANCE = 1e-2
Batch = dict[str, Tensor]
Step = Callable[[Batch], Tensor]
Shape = tuple[tuple[str, torch.Size], ...]


def widened(batch: Batch, pad_token_id: int, longest: int) -> Batch:
    """A classifier's batch, padded to a multiple of `WIDTHS` tokens, but to no more than the longest text has."""
    width = batch["input_ids"].shape[1]
    more = min(-(-width // WIDTHS) * WIDTHS, max(longest, width)) - width
    fills = {"input_ids": pad_token_id}
    return {
        name: F.pad(tensor, (0, more), value=fills.get(name, 0)) if tensor.dim() == 2 else tensor
        for name, tensor in batch.items()
    }


def can_record(model: nn.Module) -> bool:
    """Whether the model's steps on a GPU differ in nothing but numbers there."""
    plain = all(adapter.replayable and adapter.dropout.p == 0 for adapter in adapters(model).values())
    return plain and not hasattr(model, "peft_config")


@dataclass(frozen=True)
class _Recording:
    """A step's graph, with the places where it reads a batch and leaves the loss and the gradients."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor
    gradients: list[Tensor]

    def replay(self, batch: Batch) -> Tensor:
        for name, place in self.batch.items():
            place.copy_(batch[name], non_blocking=True)
        self.graph.replay()
        return self.loss.clone()


class RecordedSteps:
    """Steps of a model on a GPU, each shape's from the third on replayed.

    Args:
        step: the mean loss of a batch; adds the gradients to parameters that have none yet.
        say: told once why steps can't be recorded.
    """

    def __init__(self, model: nn.Module, step: Step, say: Callable[[str], None]) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.step, self.say = step, say
        self.refused = False
        self.seen: set[Shape] = set()
        self.recordings: dict[Shape, _Recording] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """The loss of a batch on the GPU; leaves its gradients in the parameters."""
        shape = tuple((name, tensor.shape) for name, tensor in batch.items())
        if shape in self.recordings:
            recording = self.recordings[shape]
            loss = recording.replay(batch)
            self._leave(recording.gradients)
            return loss
        before = torch.cuda.get_rng_state()
        loss = self.step(batch)
        if shape in self.seen and not self.refused:
            self._try_to_record(shape, batch, loss, before)
        self.seen.add(shape)
        return loss

    def _leave(self, gradients: list[Any]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def _try_to_record(self, shape: Shape, batch: Batch, loss: Tensor, before: Tensor) -> None:
        """Record the step that was just done in the plain way, and keep the recording if it gives the same."""
        gradients, after = [parameter.grad for parameter in self.parameters], torch.cuda.get_rng_state()
        try:
            recording = self._recorded(batch)
            torch.cuda.set_rng_state(before)
            difference = _difference([recording.replay(batch), *recording.gradients], [loss, *gradients])
            if difference > TOLERANCE:
                raise RuntimeError(f"a recorded step differs by {difference:.1%} of the gradients' norm")
            self.recordings[shape] = recording
        except Exception as error:  # whatever a model does that a graph can't hold
            self.refused = True
            self.say(f"steps aren't recorded as CUDA graphs: {first_line(error)}")
        torch.cuda.set_rng_state(after)
        self._leave(gradients)

    def _recorded(self, batch: Batch) -> _Recording:
        places = {name: tensor.clone() for name, tensor in batch.items()}
        self._leave([None] * len(self.parameters))  # so that backward makes them, in the graph's own memory
        drawn = _host_random_state()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.step(places)
        if _host_random_state() != drawn:
            raise RuntimeError("the model draws random numbers on the host, which a graph would repeat")
        gradients: Any = [parameter.grad for parameter in self.parameters]
        return _Recording(graph, places, loss, gradients)


def _host_random_state() -> tuple[bytes, Any]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate()


def _difference(tensors: list[Any], expected: list[Any]) -> float:
    """The norm of all differences as a share of that of what is expected; a gradient that is None is one of zeros."""
    pairs = [
        (torch.zeros_like(other) if one is None else one, torch.zeros_like(one) if other is None else other)
        for one, other in zip(tensors, expected, strict=True)
        if one is not None or other is not None
    ]
    apart = torch.stack([(one - other).float().norm() for one, other in pairs]).norm()
    return float(apart / torch.stack([other.float().norm() for _, other in pairs]).norm())
