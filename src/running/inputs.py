"""What a run computes with beside its config: found before it starts, and part of its identity."""

from pathlib import Path

from src.config.schema import Config
from src.config.steps import resolved_steps
from src.models.base_model import find_weights
from src.models.weights import description_digests
from src.results.code import Code, code_of
from src.results.identity import Inputs, run_folder
from src.tasks.base import load_task


def inputs_of(config: Config) -> Inputs:
    """The data, the model's files, the precision on this machine and the code.

    Raises:
        UserError: the data or the weights can't be had.
    """
    # First what is checked without loading anything: a path of the method or the loader that names nothing.
    code = code_behind(config)
    weights = find_weights(config.model)
    return Inputs(
        data=load_task(config).fingerprint,
        model_files=description_digests(weights) if weights else {},
        precision=_precision(config),
        code=code,
    )


def code_behind(config: Config) -> Code:
    """The fingerprints of the code that makes the run's result.

    Raises:
        UserError: the method or the loader isn't there.
    """
    return code_of(config.adapter.method, config.task.loader, [config.task.metric, *config.task.more_metrics])


def _precision(config: Config) -> str:
    """What `auto` stands for on this machine and with this model, and whether that can have bf16 where it is asked for.

    Only to find that is torch imported.
    """
    if config.trainer.precision == "fp32":
        return "fp32"
    from src.training.precision import device_for

    return device_for(config).precision


def with_steps(config: Config) -> Config:
    """The run's config with `trainer.max_steps` in place of epochs, for which its data must be there.

    Raises:
        UserError: the run is given in epochs and its data can't be had.
    """
    if config.trainer.epochs is None:
        return config
    return resolved_steps(config, len(load_task(config).data.splits["train"]))


def folder_of(config: Config) -> Path:
    """Where the run is stored."""
    inputs = inputs_of(config)
    return run_folder(with_steps(config), inputs)
