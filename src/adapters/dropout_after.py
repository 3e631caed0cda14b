"""Which dropout of a model acts directly on what a layer computes, found by watching a forward pass.

Where a module stands says nothing about it: DistilBERT's attention has a dropout beside its last projection that acts
before it, and T5's dropout is two modules further out.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from src.errors import UserError, first_line


def dropouts_after(model: nn.Module, layers: dict[str, nn.Linear]) -> dict[str, str]:
    """By layer, the name of the dropout that is given the layer's output; a layer without one is left out.

    A model on the meta device, which can't be run, and a module that isn't one of transformers are taken to have none.

    Raises:
        UserError: a layer's dropout is no module, isn't its only one, or serves other layers too; or the model can't be
            run on a few tokens.
    """
    modules = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0
    }
    if not isinstance(model, PreTrainedModel) or model.device.type == "meta":
        return {}
    calls = _Calls()
    hooks = [layer.register_forward_hook(calls.computed(name)) for name, layer in layers.items()]
    hooks += [module.register_forward_pre_hook(calls.dropped(name)) for name, module in modules.items()]
    try:
        _run(model, calls)
    finally:
        for hook in hooks:
            hook.remove()
    return calls.checked(type(model).__name__)


class _Calls(TorchFunctionMode):
    """What a forward pass did with the outputs of the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, str] = {}  # by the address of its memory, the layer that an output is of
        self.kept: list[Tensor] = []  # so that no address is given to another tensor
        self.after: dict[str, set[str | None]] = {}  # by dropout, the layers whose outputs it was given
        self.functions: set[str] = set()  # layers whose output went into a dropout, module or not

    def computed(self, layer: str) -> Callable[..., None]:
        """A forward hook for a layer."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.outputs[output.untyped_storage().data_ptr()] = layer
            self.kept.append(output)

        return hook

    def dropped(self, dropout: str) -> Callable[..., None]:
        """A forward pre-hook for a dropout."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.after.setdefault(dropout, set()).add(self._layer_of(inputs[0]))

        return hook

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout and kwargs.get("p", args[1] if len(args) > 1 else 0.5) > 0:
            layer = self._layer_of(args[0] if args else kwargs["input"])
            self.functions |= {layer} if layer else set()
        return func(*args, **kwargs)

    def checked(self, model: str) -> dict[str, str]:
        """By layer, its dropout."""
        pairs = [(layer, dropout) for dropout, layers in self.after.items() for layer in layers if layer]
        found, counts = dict(pairs), Counter(layer for layer, _ in pairs)
        unreachable = sorted(self.functions - found.keys())
        shared = [layer for layer, dropout in pairs if counts[layer] > 1 or len(self.after[dropout]) > 1]
        for layer in [*unreachable, *shared]:
            raise UserError(
                f"{model} has the dropout after {layer} in a place where nothing can follow it alone.\n"
                "Set that dropout to 0 in model.config, or choose another adapter."
            )
        return found

    def _layer_of(self, tensor: Tensor) -> str | None:
        return self.outputs.get(tensor.untyped_storage().data_ptr())


@torch.no_grad()
def _run(model: PreTrainedModel, calls: _Calls) -> None:
    """Run the model without its head on a few tokens, as it is when it is evaluated."""
    embeddings = cast("nn.Embedding", model.get_input_embeddings())
    tokens = {name: tensor.to(model.device) for name, tensor in model.dummy_inputs.items()}
    tokens |= {key: ids % embeddings.num_embeddings for key, ids in tokens.items() if key.endswith("input_ids")}
    tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
    body: Any = model.base_model  # a head may want more of a text than these tokens have
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with calls:
            body(**tokens)
    except Exception as error:  # in whatever way an unusual model fails
        raise UserError(
            f"{type(model).__name__} doesn't run on a few tokens, which would show the dropouts that an adapter has to "
            f"follow: {first_line(error)}\nChoose another adapter."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
