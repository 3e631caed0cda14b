"""The parameter ledger: what is trained, what is stored, what is only there. Counted by module, never by name part."""

from dataclasses import dataclass

from torch import nn

from src.adapters.inject import adapters, own_tensors

ADAM_BYTES_PER_PARAMETER = 8  # two float32 moments


@dataclass(frozen=True)
class Ledger:
    """Parameter counts of one model with one method on it.

    `total` is the base model with its head: the one denominator of every percentage.
    """

    adapter_trained: int
    head_trained: int
    other_trained: int
    adapter_frozen: int
    base_frozen: int
    total: int
    adapter_bytes: int
    optimizer_bytes: int

    @property
    def trained(self) -> int:
        """Everything the optimizer updates."""
        return self.adapter_trained + self.head_trained + self.other_trained


def count(model: nn.Module, head: list[str]) -> Ledger:
    """Count the parameters of `model`, whose head is the modules named in `head`; works on the meta device."""
    in_adapter: dict[int, nn.Parameter] = {}
    for adapter in adapters(model).values():
        base = {id(parameter) for parameter in adapter.base_layer.parameters()}
        in_adapter |= {id(parameter): parameter for parameter in adapter.parameters() if id(parameter) not in base}
    in_head = {id(parameter) for name in head for parameter in model.get_submodule(name).parameters()}
    sums = dict.fromkeys(("adapter_trained", "head_trained", "other_trained", "adapter_frozen", "base_frozen"), 0)
    for parameter in model.parameters():
        owner = "adapter" if id(parameter) in in_adapter else "head" if id(parameter) in in_head else "other"
        if parameter.requires_grad:
            sums[f"{owner}_trained"] += parameter.numel()
        else:
            sums["adapter_frozen" if owner == "adapter" else "base_frozen"] += parameter.numel()
    trained = sums["adapter_trained"] + sums["head_trained"] + sums["other_trained"]
    return Ledger(
        **sums,
        total=sums["base_frozen"] + sums["head_trained"] + sums["other_trained"],
        adapter_bytes=sum(tensor.numel() * tensor.element_size() for tensor in own_tensors(model).values()),
        optimizer_bytes=trained * ADAM_BYTES_PER_PARAMETER,
    )
