"""What a format of exports is: how to write a run's model, and how its user reads it back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from torch import nn

from src.adapters.inject import InjectedModel
from src.config.schema import Config
from src.models.base_model import AUTO_CLASSES, BaseModel
from src.models.last_token import pools_last_token
from src.tasks.base import Row


@dataclass(frozen=True)
class TrainedModel:
    """A finished run's model, put together again from its base and its adapter."""

    config: Config
    base: BaseModel
    injected: InjectedModel
    label_names: list[str]


@dataclass(frozen=True)
class Written:
    """What an export is, and the Python that loads it."""

    description: str
    usage: str


class Format(Protocol):
    """What the module of a format has."""

    def refuse(self, config: Config) -> None:
        """Raise a UserError for a run that its config alone rules out."""

    def write(self, source: TrainedModel, folder: Path, target: Path) -> Written:
        """Write to `folder`, which will be moved to `target`; the injected model may be used up."""

    def load(self, source: TrainedModel, folder: Path, rows: list[Row]) -> nn.Module:
        """Read the model back as its user will."""


def plain_model(source: TrainedModel, folder: Path, dtype: str = "float32") -> Any:
    """The model in a folder of weights, loaded in `dtype` by transformers alone; it computes in float32."""
    kind, arguments = auto_class(source.config), loading_arguments(source)
    return kind.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True, **arguments).float()


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


def auto_class(config: Config) -> Any:
    """transformers' class for the model's architecture."""
    return getattr(transformers, AUTO_CLASSES[config.model.architecture])
