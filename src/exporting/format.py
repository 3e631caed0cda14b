"""What a format of exports is: how to write a run's model, and how its user reads it back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from src.adapters.inject import InjectedModel
from src.config.schema import Config
from src.models.base_model import AUTO_CLASSES, BaseModel
from src.models.last_token import pools_last_token
from src.training.scoring import Scoring


@dataclass(frozen=True)
class TrainedModel:
    """A finished run's model, put together again from its base and its adapter, and how its run was scored."""

    config: Config
    base: BaseModel
    injected: InjectedModel
    label_names: list[str]
    scoring: Scoring


@dataclass(frozen=True)
class Written:
    """What an export is, and the Python expressions that load its model and its tokenizer.

    `rounds` says why the model that is loaded computes otherwise than the run's, where it does.
    """

    description: str
    usage: str
    tokenizer_usage: str
    rounds: str = ""


class Format(Protocol):
    """What the module of a format has."""

    def refuse(self, config: Config) -> None:
        """Raise a UserError for a run that its config alone rules out."""

    def write(self, source: TrainedModel, folder: Path, target: Path) -> Written:
        """Write to `folder`, which will be moved to `target`; the injected model may be used up."""


def auto_class(config: Config) -> str:
    """The name of transformers' class for the model's architecture."""
    return AUTO_CLASSES[config.model.architecture]


def loading_arguments(source: TrainedModel) -> dict[str, int]:
    """What `from_pretrained` must be told beside the folder for the model to be the run's."""
    if source.config.model.architecture != "classifier":
        return {}
    base: Any = source.base.module
    arguments = {"num_labels": len(source.label_names)}
    if pools_last_token(base):
        arguments["pad_token_id"] = base.config.pad_token_id
    if source.base.other_classes:
        arguments["ignore_mismatched_sizes"] = True
    return arguments


def in_python(path: Path | str) -> str:
    """A path as a Python string."""
    return json.dumps(str(path), ensure_ascii=False)


def write_reading(source: TrainedModel, folder: Path, target: Path) -> str:
    """Write the tokenizer, and for texts how they were decoded, beside the weights; returns what loads the first."""
    source.base.tokenizer.save_pretrained(folder)
    if source.config.model.architecture != "classifier":
        source.scoring.decoding().save_pretrained(folder)
    return f"AutoTokenizer.from_pretrained({in_python(target)})"
