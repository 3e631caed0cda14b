"""All that a step of training depends on, as tensors and plain values: from it training goes on to the same bits.

That is what is trained, the optimizer's moments, the rates, the random states, and what was measured on the way. The
data need nothing but the number of steps: their order comes from a stream of its own.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.training.device import Device


@dataclass(frozen=True)
class Snapshot:
    """Training after `step` steps: tensors by name, and JSON values."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, by their names in it."""
        return {
            key.removeprefix(f"{name}/"): tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}/")
        }


def part_of(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part by their names in a snapshot, copied to the CPU, as training goes on to change them."""
    return {f"{part}/{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def optimizer_state(optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's moments as tensors, and its other numbers with the groups' rates."""
    tensors, numbers = dict[str, Tensor](), dict[str, Any]()
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}/{key}"] = value
    return tensors, {"numbers": numbers, "rates": [group["lr"] for group in optimizer.param_groups]}


def restore_optimizer(optimizer: Any, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Give an optimizer over the same parameters such a state."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *values["numbers"].items()]:
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for group, rate in zip(optimizer.param_groups, values["rates"], strict=True):
        group["lr"] = rate


def restore_schedule(schedule: Any, step: int, rates: list[float]) -> None:
    """Set a schedule of rates to where it is after so many steps."""
    schedule.load_state_dict({**schedule.state_dict(), "last_epoch": step, "_step_count": step + 1, "_last_lr": rates})


def random_state(device: Device) -> list[Tensor]:
    """The random states of PyTorch that dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if device.type == "cuda" else [])]


def set_random_state(device: Device, states: list[Tensor]) -> None:
    """Go back to such states."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1])


def host_random_state() -> dict[str, Any]:
    """The random states of Python and NumPy, which a model's own code may draw from, as JSON values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def set_host_random_state(state: dict[str, Any]) -> None:
    """Go back to such states."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
