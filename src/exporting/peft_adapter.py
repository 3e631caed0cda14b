"""`--format peft`: an adapter that PEFT puts on the base model, the head among its `modules_to_save`.

Every update that is a LoRA of some rank becomes one of PEFT's: LoRA-XS and LoRA-SB with R folded into B, PiSSA in
twice its rank on the original weight, VeRA with its vectors folded in. A DoRA stays one. A run of one of PEFT's own
methods is saved as that method.
"""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from src.adapters.base import Adapter, LoRAFactors
from src.adapters.inject import adapters
from src.adapters.peft_bridge import TASK_TYPES
from src.config.schema import Config
from src.errors import UserError
from src.exporting.format import TrainedModel, Written, auto_class, in_python, loading_arguments, write_reading
from src.models.base_model import find_weights, has_hub_weights, load_base
from src.models.dense_weight import dense_weight
from src.running.assemble import fresh_model

ADAPTER_NAME = "default"  # PEFT's for a model's first adapter
DRAWN_BASE = "base"  # folder in the export for weights that lie nowhere else
OTHER_KERNELS = "bitsandbytes' own layers, which PEFT and transformers load, round otherwise than the run's"


def refuse(config: Config) -> None:
    """Refuse a model whose layers PEFT would meet under other names."""
    if config.model.fused:
        raise UserError(
            f"model={config.model.name} keeps several projections in one matrix, which this project splits; adapters "
            "of the parts can't be written for PEFT.\nUse --format merged."
        )


def write(source: TrainedModel, folder: Path, target: Path) -> Written:
    """Build PEFT's model of the adapter and save it as PEFT does."""
    config, model, (where, revision) = source.config, _peft_model(source), _base_of(source, folder, target)
    settings: Any = model.peft_config[ADAPTER_NAME]
    settings.base_model_name_or_path, settings.revision = where, revision
    settings.modules_to_save = list(config.model.head) or None  # PEFT adds names of its own, and will again
    model.save_pretrained(str(folder), save_embedding_layers=False)
    kind = "DORA" if getattr(settings, "use_dora", False) else settings.peft_type.value
    rank = f", rank {settings.r}" if getattr(settings, "r", None) else ""
    weights = "" if config.quantization == "none" else f" with {config.quantization} weights"
    arguments = ", ".join([_loaded_from(config, target), *_loading_options(source)])
    base = f"{auto_class(config)}.from_pretrained({arguments})"
    return Written(
        f"an adapter of PEFT ({kind}{rank}) on {where}{weights}",
        f"PeftModel.from_pretrained({base}, {in_python(target)})",
        write_reading(source, folder, target),
        rounds=OTHER_KERNELS if config.quantization != "none" else "",
    )


def _loading_options(source: TrainedModel) -> list[str]:
    """What `from_pretrained` must be told of the base model, in Python."""
    config = source.config
    labels = [f"{name}={value}" for name, value in loading_arguments(source).items()]
    labels += ["dtype=torch.bfloat16"] if config.model.dtype == "bfloat16" else []
    if config.quantization == "none":
        return labels
    bits = {"nf4": 'load_in_4bit=True, bnb_4bit_quant_type="nf4"', "int8": "load_in_8bit=True"}[config.quantization]
    kept = f", llm_int8_skip_modules={list(config.model.head)}" if config.model.head else ""
    return [*labels, f"quantization_config=BitsAndBytesConfig({bits}{kept})"]


def _loaded_from(config: Config, target: Path) -> str:
    """Where the base model's weights lie on this machine, as the first arguments of `from_pretrained`."""
    model, weights = config.model, find_weights(config.model)
    if weights is None:
        return in_python(target / DRAWN_BASE)
    if model.hub_id and has_hub_weights(model):
        return ", ".join([in_python(model.hub_id), *([f'revision="{model.revision}"'] if model.revision else [])])
    return in_python(weights.absolute())


def _base_of(source: TrainedModel, folder: Path, target: Path) -> tuple[str, str | None]:
    """Where the base model's weights are to be had, and in which revision: those that the run had, and no others'."""
    model = source.config.model
    weights = find_weights(model)
    if weights is None:  # drawn from a seed
        plain = load_base(model, num_labels=len(source.label_names), attention="eager")
        plain.module.save_pretrained(folder / DRAWN_BASE)
        plain.tokenizer.save_pretrained(folder / DRAWN_BASE)
        return str(target / DRAWN_BASE), None
    if model.hub_id and not model.path:  # a package's are the hub's, by the yaml
        return model.hub_id, model.revision
    return str(weights.absolute()), None


def _peft_model(source: TrainedModel) -> PeftModel:
    """PEFT's model of the run's adapter and head, on a copy of the base."""
    bridged = source.injected.model if isinstance(source.injected.model, PeftModel) else None
    factors = {} if bridged else _factors(source)
    settings: Any = copy.deepcopy(bridged.active_peft_config) if bridged else _lora_config(factors, source.config)
    settings.task_type = TASK_TYPES[source.config.model.architecture]
    settings.modules_to_save = list(source.config.model.head) or None
    model: Any = peft.get_peft_model(fresh_model(source.config, source.base), settings)
    for name, update in factors.items():
        _fill(model.get_base_model().get_submodule(name), update)
    for name in source.config.model.head:
        head = (bridged.get_base_model() if bridged else source.injected.model).get_submodule(name)
        copied = model.get_base_model().get_submodule(name).modules_to_save[ADAPTER_NAME]
        copied.load_state_dict(head.state_dict())
    if bridged:
        state = [get_peft_model_state_dict(part, save_embedding_layers=False) for part in (model, bridged)]
        set_peft_model_state_dict(model, state[0] | state[1])
    exported: PeftModel = model
    return exported


def _factors(source: TrainedModel) -> dict[str, LoRAFactors]:
    """Every adapter's update as a LoRA.

    Raises:
        UserError: the method isn't made of such updates, or changed what PEFT would load unchanged.
    """
    injected, name = source.injected, source.config.adapter.name
    wrapped = adapters(injected.model)
    factors = {module: factors for module, adapter in wrapped.items() if (factors := adapter.lora_factors())}
    beside = [
        key for key in injected.saved_tensors() if key not in injected.head and not key.startswith(_prefixes(factors))
    ]
    if not factors or beside:
        raise UserError(f"PEFT has no adapter that is what adapter={name} is.\n{_remedy(wrapped)}")
    for module, adapter in wrapped.items():
        before: Any = source.base.module.get_submodule(module)
        weights = [dense_weight(layer).cpu() for layer in (before, adapter.base_layer)]
        if source.config.quantization != "none" and not torch.equal(*weights):
            raise UserError(
                f"adapter={name} rounded other weights to {source.config.quantization} than PEFT would load.\n"
                "Use --format merged."
            )
    return factors


def _remedy(wrapped: dict[str, Adapter]) -> str:
    try:
        for adapter in wrapped.values():
            adapter.merged_weight()
    except UserError as error:
        return str(error)
    return "Use --format merged."


def _prefixes(names: dict[str, LoRAFactors]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def _lora_config(factors: dict[str, LoRAFactors], config: Config) -> peft.LoraConfig:
    """The config of a LoRA with these factors, the modules that differ from most in patterns of their own."""
    ranks = {name: len(update.A) for name, update in factors.items()}
    alphas = {name: update.scaling * ranks[name] for name, update in factors.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return peft.LoraConfig(
        r=int(rank),
        lora_alpha=alpha,  # type: ignore[arg-type]  # a float does as well
        rank_pattern={name: value for name, value in ranks.items() if value != rank},
        alpha_pattern={name: value for name, value in alphas.items() if value != alpha},
        target_modules=sorted(factors),
        lora_dropout=config.adapter.options.get("dropout") or 0.0,
        use_dora=any(update.magnitude is not None for update in factors.values()),
    )


@torch.no_grad()
def _fill(layer: Any, factors: LoRAFactors) -> None:
    """Copy the factors into a LoRA layer of PEFT."""
    layer.lora_A[ADAPTER_NAME].weight.copy_(factors.A)
    layer.lora_B[ADAPTER_NAME].weight.copy_(factors.B)
    if factors.magnitude is not None:
        layer.lora_magnitude_vector[ADAPTER_NAME].weight.copy_(factors.magnitude)
