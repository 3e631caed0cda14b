"""The parameter ledger: what is trained, what is stored, what is only there. Counted by module, never by name part.

One denominator serves every percentage: the base model with its head. Two other conventions in use are given beside
it by name: PEFT's, whose total has the head twice and the adapter too, and the papers', which leave the head out.
"""

import math
from dataclasses import asdict, dataclass, field

from torch import Tensor, nn

from src.adapters.inject import InjectedModel, adapters, stored_tensors

ADAM_BYTES_PER_PARAMETER = 8  # two float32 moments


@dataclass(frozen=True)
class Ledger:
    """Parameter counts of one model with one method on it.

    `total` is the base model with its head: the one denominator of every percentage. `adapter_frozen` is what the
    adapter stores beside what it trains; `adapter_bytes` the size of all it saves, the head included. `outside_peft`
    is the part of `adapter_frozen` that PEFT keeps in buffers or not at all; no part of a record.
    """

    adapter_trained: int
    head_trained: int
    other_trained: int
    adapter_frozen: int
    base_frozen: int
    total: int
    adapter_bytes: int
    optimizer_bytes: int
    outside_peft: int = field(default=0, compare=False)

    @property
    def trained(self) -> int:
        """Everything the optimizer updates."""
        return self.adapter_trained + self.head_trained + self.other_trained

    @property
    def trained_percent(self) -> float:
        """What is trained, in percent of the base model with its head."""
        return 100 * self.trained / self.total

    @property
    def paper_trained(self) -> int:
        """What papers count: everything trained but the head."""
        return self.adapter_trained + self.other_trained

    @property
    def peft_total(self) -> int:
        """PEFT's "all params": base, adapter, and the trained head a second time, as `modules_to_save` copies it."""
        copied = self.head_trained if self.other_trained == 0 else 0
        return self.total + self.adapter_trained + self.adapter_frozen - self.outside_peft + copied

    def as_dict(self) -> dict[str, int]:
        """The counts as they stand in a record, with their sum `trained`."""
        counts = asdict(self) | {"trained": self.trained}
        del counts["outside_peft"]
        return counts


def count(injected: InjectedModel) -> Ledger:
    """Count the parameters of a model with a method on it; works on the meta device, and logical shapes in 4 bits."""
    sums = dict.fromkeys(("adapter_trained", "head_trained", "other_trained", "adapter_frozen", "base_frozen"), 0)
    for name, tensor in stored_tensors(injected.model).items():
        owner = "head" if name in injected.head else "adapter" if name in injected.added else "other"
        if tensor.requires_grad:
            sums[f"{owner}_trained"] += tensor.numel()
        elif owner == "adapter":
            sums["adapter_frozen"] += tensor.numel()
        elif isinstance(tensor, nn.Parameter):  # the base's buffers are no parameters
            sums["base_frozen"] += logical_size(tensor)
    parameters = _peft_parameters(injected)
    stored = [tensor for name, tensor in injected.saved_tensors().items() if name in injected.added]
    trained = sums["adapter_trained"] + sums["head_trained"] + sums["other_trained"]
    return Ledger(
        **sums,
        total=sums["base_frozen"] + sums["head_trained"] + sums["other_trained"],
        adapter_bytes=sum(tensor.numel() * tensor.element_size() for tensor in injected.saved_tensors().values()),
        optimizer_bytes=trained * ADAM_BYTES_PER_PARAMETER,
        outside_peft=sum(tensor.numel() for tensor in stored if id(tensor) not in parameters),
    )


def _peft_parameters(injected: InjectedModel) -> set[int]:
    """The identities of the parameters that are parameters where PEFT has the method, too."""
    beside = {
        id(getattr(adapter, name)) for adapter in adapters(injected.model).values() for name in adapter.outside_peft
    }
    return {id(parameter) for parameter in injected.model.parameters()} - beside


def logical_size(parameter: Tensor) -> int:
    """The number of weights that a tensor stands for; a 4-bit one holds two in an element."""
    # Only bitsandbytes' 4-bit tensors have a state; it knows the shape before packing.
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def closed_form(injected: InjectedModel) -> int:
    """What the linear adapters of a model say they train, by their papers' formulas."""
    return sum(
        adapter.expected_trainable(adapter.in_features, adapter.out_features, adapter.rank)
        for adapter in adapters(injected.model).values()
    )
