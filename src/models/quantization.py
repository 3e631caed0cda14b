"""Base models with weights in 4 or 8 bits: whether this machine can have them, and how a loaded model becomes one.

A model is quantized after it is loaded, so pre-trained and drawn models, and those whose projections were fused,
take the same way. transformers sees an ordinary model: its Trainer would refuse one that it quantized itself, since
it knows no adapters but PEFT's.
"""

import importlib.util
import re
from typing import TYPE_CHECKING, Any

from src.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from src.config.schema import Config

NAMES_SHOWN = 4
FLAGS = {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}  # how PEFT and transformers know such a model


def check_quantization(kind: str) -> None:
    """Make sure that bitsandbytes works here, by having it multiply a small layer.

    Raises:
        UserError: it isn't installed, or can't do it on this machine.
    """
    if kind == "none":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"quantization={kind} needs bitsandbytes, which isn't installed.\n"
            "Run: pip install bitsandbytes, or choose quantization=none."
        )
    from src.quiet import quiet_libraries

    quiet_libraries()
    try:
        _try(kind)
    except Exception as error:  # in whatever way a broken installation fails
        raise UserError(
            f"quantization={kind} doesn't work on this machine: {first_line(error)}\n"
            "Run `python -m bitsandbytes` for its own diagnosis, or choose quantization=none."
        ) from error


def quantize(model: "PreTrainedModel", kind: str, keep: list[str]) -> None:
    """Replace the linear layers of `model` by quantized ones.

    Args:
        kind: "nf4" or "int8".
        keep: modules that stay as they are, such as the head. The output embedding stays too, and what
            transformers keeps in float32 wherever it quantizes.
    """
    for name, module in quantizable(model, keep).items():
        model.set_submodule(name, _layer_class(kind).of(module))
    setattr(model, FLAGS[kind], True)


def quantizable(model: "PreTrainedModel", keep: list[str]) -> "dict[str, nn.Linear]":
    """The layers that `quantize` replaces, by name; of a model on the meta device too."""
    from torch import nn
    from transformers.quantizers.quantizers_utils import should_convert_module

    output = model.get_output_embeddings()
    patterns = [*keep, *(getattr(model, "_keep_in_fp32_modules", None) or [])]
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not output and should_convert_module(name, patterns)
    }


def quantized_share(model: "PreTrainedModel", config: "Config") -> float:
    """The share of the base's matrix weights that `quantize` keeps in fewer bits, before or after it has.

    Matrix weights are all parameters of two dimensions or more, but for embeddings, the output embedding and the head,
    which stay in floating point by convention.

    Raises:
        UserError: not all of them are, as with experts in parameters of three dimensions, and that wasn't agreed to.
    """
    sizes, left = _matrix_weights(model, config.model.head)
    share = sizes / max(1, sizes + sum(left.values()))
    if left and not config.quantization_partial:
        names = ", ".join(sorted(left, key=lambda name: -left[name])[:NAMES_SHOWN])
        raise UserError(
            f"quantization={config.quantization} reaches {share:.1%} of the matrix weights of model="
            f"{config.model.name}; in floating point stay {names}.\n"
            "Set quantization_partial=true to run it all the same, which is recorded, or quantization=none."
        )
    return share


def _matrix_weights(model: "PreTrainedModel", head: list[str]) -> tuple[int, dict[str, int]]:
    """How many weights of matrices are quantized, and how many aren't by name, `*` for a block's number."""
    from torch import nn

    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    output: Any = model.get_output_embeddings()
    kept = embeddings | {id(parameter) for parameter in (output.parameters() if output is not None else ())}
    kept |= {id(parameter) for name in head for parameter in model.get_submodule(name).parameters()}
    reached = quantizable(model, head)
    quantized, left = 0, dict[str, int]()
    for name, parameter in model.named_parameters():
        path = name.rpartition(".")[0]
        layer = model.get_submodule(path)
        if id(parameter) in kept or parameter.dim() < 2 or name.endswith("bias"):
            continue
        if isinstance(layer, nn.Linear) and (path in reached or not parameter.is_floating_point()):
            quantized += layer.in_features * layer.out_features  # a 4-bit parameter packs two in an element
        else:
            pattern = re.sub(r"\.\d+\.", ".*.", name)
            left[pattern] = left.get(pattern, 0) + parameter.numel()
    return quantized, left


def dequantize(model: "PreTrainedModel") -> None:
    """Replace the quantized linear layers of `model`, if any, by plain ones of the same weights in float32."""
    from torch import nn

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            model.set_submodule(name, _plain(module))
    for flag in FLAGS.values():
        model.__dict__.pop(flag, None)


def _plain(layer: "nn.Linear") -> "nn.Linear":
    from torch import nn

    from src.models.dense_weight import dense_weight

    plain = nn.Linear(layer.in_features, layer.out_features, device="meta")  # draws no random numbers there
    plain.weight, plain.bias = nn.Parameter(dense_weight(layer)), layer.bias
    return plain.requires_grad_(False)


def _try(kind: str) -> None:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng():
        layer = _layer_class(kind).of(torch.nn.Linear(64, 64)).to(device)
    x = torch.ones(2, 64, device=device, requires_grad=True)
    layer(x).sum().backward()


def _layer_class(kind: str) -> Any:
    from src.models.quantized_layers import Int8Linear, NF4Linear

    return {"nf4": NF4Linear, "int8": Int8Linear}[kind]
