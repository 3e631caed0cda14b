"""What a checkpoint has of its model: read when it is loaded, so that nothing of the model is random in silence.

transformers draws whatever a checkpoint lacks and leaves out whatever it has too much. Here only the head may be
lacking, as each run draws it from its own stream, trains it and saves it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config.schema import ModelConfig
from src.errors import UserError, first_line, nearest_first

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

NAMES_SHOWN = 4


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model as its checkpoint gives it.

    `lacking` names the parameters that the checkpoint doesn't have, `other_classes` those of them that it has for
    another number of classes, and `unused` what it has beyond the model, as a masked-token head is to a classifier.
    """

    model: "PreTrainedModel"
    lacking: frozenset[str]
    other_classes: frozenset[str]
    unused: frozenset[str]


def read_config(folder: Path, **changes: Any) -> "PreTrainedConfig":
    """The config in a model's folder, with changes.

    Raises:
        UserError: transformers doesn't know such a model, or its code lies in the folder.
    """
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **changes
        )
    except Exception as error:  # in whatever way transformers refuses one
        raise UserError(
            f"{folder}/config.json can't be read: {first_line(error)}\n"
            "Give a model of transformers' own; code that lies beside the weights is never run."
        ) from error
    return config


def load_checkpoint(auto_class: Any, folder: Path, config: ModelConfig, **arguments: Any) -> LoadedCheckpoint:
    """Load a model by transformers and make sure that it is the checkpoint's, but for the head.

    Args:
        arguments: passed to `from_pretrained` beside the yaml's `config`.

    Raises:
        UserError: it can't be loaded, lacks weights, has others than its config says, or some that are no numbers.
    """
    try:
        model, info = auto_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **arguments,
        )
    except MemoryError:
        raise
    except Exception as error:  # in whatever way a damaged or unknown checkpoint fails
        raise UserError(
            f"model={config.name}: transformers can't load {folder}: {first_line(error)}\n"
            "Give a folder that save_pretrained wrote or the hub has, or correct model.config."
        ) from error
    other_classes = frozenset(name for name, *shapes in info["mismatched_keys"] if _differ_in_classes(model, *shapes))
    _check_sizes(config, folder, [entry for entry in info["mismatched_keys"] if entry[0] not in other_classes])
    lacking, unused = frozenset(info["missing_keys"]) | other_classes, frozenset(info["unexpected_keys"])
    loaded = LoadedCheckpoint(model, lacking, other_classes, unused)
    check_head(model, config, loaded.lacking)
    _check_lacking(config, folder, loaded)
    _check_unused(config, folder, loaded)
    _check_finite(config, folder, loaded)
    return loaded


def check_head(model: "PreTrainedModel", config: ModelConfig, lacking: frozenset[str]) -> None:
    """Refuse a head that the model doesn't have, and a classifier without one.

    Args:
        lacking: parameters that come from nowhere but the head's draw.
    """
    modules = {name: module for name, module in model.named_modules() if name and list(module.parameters())}
    for name in config.head:
        if name not in modules:
            outermost = [module for module in modules if "." not in module]
            near = ", ".join(dict.fromkeys([*nearest_first(name, modules)[:2], *outermost]))
            raise UserError(
                f"model.head=[{','.join(config.head)}]: model={config.name} has no module '{name}' with weights.\n"
                f"Nearest names: {near}."
            )
    body = f"{model.base_model_prefix}."
    own = [name for name, _ in model.named_parameters() if not name.startswith(body)]
    untrained = [name for name in own if name in lacking and not in_head(name, config.head)]
    if config.architecture == "classifier" and (untrained or not config.head):
        head = whole_modules(model, untrained or own)
        raise UserError(
            f"model={config.name} is a classifier, and its head would never be trained: {', '.join(head)}.\n"
            f"Set model.head=[{','.join([*config.head, *head])}]."
        )


def in_head(name: str, head: Iterable[str]) -> bool:
    """Whether the parameter `name` belongs to one of the modules of the head."""
    return any(name.startswith(f"{module}.") for module in head)


def _differ_in_classes(model: "PreTrainedModel", stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether two shapes are those of one output layer for two numbers of classes."""
    return len(stored) == len(wanted) and stored[1:] == wanted[1:] and wanted[:1] == (model.config.num_labels,)


def _check_sizes(config: ModelConfig, folder: Path, mismatched: list[tuple[str, tuple[int, ...], Any]]) -> None:
    if mismatched:
        name, stored, wanted = min(mismatched)
        raise UserError(
            f"model={config.name}: {name} is {_shape(stored)} in {folder} and {_shape(wanted)} by its config, as are "
            f"{len(mismatched) - 1} others.\nGive the config.json that belongs to the weights, or correct model.config."
        )


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _check_lacking(config: ModelConfig, folder: Path, loaded: LoadedCheckpoint) -> None:
    """Refuse a checkpoint without a part of the model that isn't named in the head: it would be random and frozen."""
    names = sorted(name for name in loaded.lacking if not in_head(name, config.head))
    if not names:
        return
    modules = whole_modules(loaded.model, names)
    also = ",".join([*config.head, *modules])
    remedy = f", or set model.head=[{also}] to have it drawn, trained and saved" if 0 < len(modules) <= 2 else ""
    unused = f"\nIt has, unused: {_listed(loaded.unused)}." if loaded.unused else ""
    raise UserError(
        f"model={config.name}: {folder} lacks weights of the model: {_listed(names)}.{unused}\n"
        f"Give a checkpoint of this architecture that has them{remedy}."
    )


def whole_modules(model: "nn.Module", names: Iterable[str]) -> list[str]:
    """The outermost modules all of whose parameters are among `names`."""
    among, chosen = set(names), list[str]()
    for name, module in model.named_modules():
        inside = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if name and inside and among.issuperset(inside) and not in_head(f"{name}.", chosen):
            chosen.append(name)
    return chosen


def _check_unused(config: ModelConfig, folder: Path, loaded: LoadedCheckpoint) -> None:
    """Refuse weights of the body that the model, as it is configured, leaves out: it would be another model."""
    shortened_on_purpose = any("layer" in key for key in config.config)
    parameters = [name for name, _ in loaded.model.named_parameters(remove_duplicate=False)]
    blocks = set() if shortened_on_purpose else {_any_block(name) for name in parameters} - {""}
    layers = {name.rpartition(".")[0] for name in parameters}
    body = f"{loaded.model.base_model_prefix}."  # left out of the names where the body was saved alone
    left_out = [
        unused
        for unused in loaded.unused
        for name in (unused, body + unused)
        if _any_block(name) in blocks
        or (name.rpartition(".")[0] in layers and name.rpartition(".")[2] in ("weight", "bias"))
    ]
    if left_out:
        raise UserError(
            f"model={config.name}: {folder} has weights that its config leaves out: {_listed(left_out)}.\n"
            "Give the config.json that belongs to the weights; fewer layers on purpose are set in model.config."
        )


def _any_block(name: str) -> str:
    """A parameter's name with `*` for the number of its block; empty where it is in none."""
    return re.sub(r"\.\d+\.", ".*.", name) if re.search(r"\.\d+\.", name) else ""


def _check_finite(config: ModelConfig, folder: Path, loaded: LoadedCheckpoint) -> None:
    for name, tensor in loaded.model.named_parameters():
        if name not in loaded.lacking and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise UserError(
                f"model={config.name}: {count:,} of the {tensor.numel():,} numbers of {name} in {folder} are infinite "
                "or NaN.\nThe file is damaged, or its training diverged: give another checkpoint."
            )


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more:,} others" if more > 0 else "")
