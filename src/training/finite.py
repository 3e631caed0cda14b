"""Where a run stops being numbers: nothing that is infinite or NaN becomes a weight that is kept, or a score."""

from collections.abc import Mapping

import torch
from torch import Tensor

from src.errors import Diverged


class FirstBroken:
    """The first step at which something was infinite or NaN, by what it was.

    The steps are kept on the device and read by `check`, at intervals: asking for each value at each step would make
    the CPU wait for the GPU at each step.
    """

    def __init__(self) -> None:
        self.steps: dict[str, Tensor] = {}

    def see(self, what: str, value: Tensor, step: int) -> None:
        """Take note of a value of `step`, of which the first is 1."""
        value = value.detach()
        first = self.steps.get(what, torch.zeros((), dtype=torch.long, device=value.device))
        # No branch on the value, which isn't known here yet.
        self.steps[what] = torch.where((first == 0) & ~value.isfinite().all(), step, first)

    def check(self) -> None:
        """Wait for the device and look.

        Raises:
            Diverged: something was infinite or NaN since the start.
        """
        broken = {what: int(first) for what, first in self.steps.items() if first}
        for what in sorted(broken, key=lambda what: broken[what]):
            raise Diverged(f"the {what} isn't finite at step {broken[what]}")


def check_weights(state: Mapping[str, Tensor], step: int) -> None:
    """Look at trained tensors before they are kept.

    Raises:
        Diverged: one of them has a value that is infinite or NaN.
    """
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        named = broken[0] + (", ..." if len(broken) > 1 else "")
        raise Diverged(f"{len(broken)} of {len(state)} trained tensors aren't finite after step {step}: {named}")


def check_rows(what: str, values: Tensor) -> None:
    """Look at what a model says of a batch: `values` (batch, ...).

    Raises:
        Diverged: something in a row is infinite or NaN.
    """
    broken = int((~values.isfinite()).flatten(1).any(dim=1).sum())
    if broken:
        raise Diverged(f"the {what} of {broken} items in a batch of {len(values)} aren't finite")
