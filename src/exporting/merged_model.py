"""`--format merged`: the whole model as transformers saves it, every adapter merged, with its tokenizer."""

from pathlib import Path
from typing import Any

from peft import PeftModel

from src.adapters.inject import InjectedModel, adapters
from src.config.schema import Config
from src.errors import UserError, first_line
from src.exporting.format import TrainedModel, Written, auto_class, in_python, write_reading
from src.models.quantization import dequantize
from src.models.unfuse import fused_state_dict
from src.running.assemble import fresh_model, inject_empty


def refuse(config: Config) -> None:
    """Let every method try; one that can't be merged says so itself."""


def write(source: TrainedModel, folder: Path, target: Path) -> Written:
    """Merge the adapters and save the model as its plain class lays it out."""
    model, config = _merged(source), source.config
    if source.label_names:
        model.config.id2label = dict(enumerate(source.label_names))
        model.config.label2id = {name: index for index, name in enumerate(source.label_names)}
    layout = {"state_dict": fused_state_dict(model)} if config.model.fused else {}
    if model.can_generate():
        model.generation_config = source.scoring.decoding()
    model.save_pretrained(folder, **layout)
    onto = "" if config.quantization == "none" else f", merged onto the dequantized {config.quantization} weights"
    return Written(
        f"a {type(model).__name__} in float32{onto}",
        f"{auto_class(config)}.from_pretrained({in_python(target)})",
        write_reading(source, folder, target),
    )


def _merged(source: TrainedModel) -> Any:
    """The model with the adapters in its weights and nothing beside them.

    Raises:
        UserError: the method adds what no weight of the base model can hold.
    """
    model: Any = source.injected.model
    if isinstance(model, PeftModel):
        model = _merged_by_peft(source)
    for name, adapter in adapters(model).items():
        model.set_submodule(name, adapter.merge())
    dequantize(model)
    names, base_names = (dict(module.named_parameters()).keys() for module in (model, source.base.module))
    if names != base_names:
        raise UserError(_unmergeable(source, f"it adds {min(names - base_names, default='nothing that merges')}"))
    return model


def _merged_by_peft(source: TrainedModel) -> Any:
    """Merge one of PEFT's methods its own way, on weights that aren't quantized: PEFT would round the result again."""
    injected = _on_dense_base(source) if source.config.quantization != "none" else source.injected
    model: Any = injected.model
    if model.active_peft_config.is_prompt_learning:
        raise UserError(_unmergeable(source, "it learns a prompt, which no weight can hold"))
    try:
        return model.merge_and_unload()
    except Exception as error:  # in whatever way PEFT says that a method can't
        raise UserError(_unmergeable(source, first_line(error))) from error


def _on_dense_base(source: TrainedModel) -> InjectedModel:
    config = source.config
    model = fresh_model(config, source.base)
    dequantize(model)
    injected = inject_empty(config, model)
    injected.load(source.injected.state())
    return injected


def _unmergeable(source: TrainedModel, reason: str) -> str:
    return f"adapter={source.config.adapter.name} can't be merged: {reason}.\nNothing was written. Try --format peft."
