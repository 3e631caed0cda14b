"""What a run computes with beside its config: found before it starts, and part of its identity."""

from pathlib import Path

from src.config.schema import Config
from src.models.base_model import find_weights
from src.models.weights import description_digests
from src.results.code import code_of
from src.results.identity import Inputs, run_folder
from src.tasks.base import load_task


def inputs_of(config: Config) -> Inputs:
    """The data, the model's files, the precision on this machine and the code.

    Raises:
        UserError: the data or the weights can't be had.
    """
    from src.training.device import find_device  # imports torch, which checks before this one do without

    weights = find_weights(config.model)
    return Inputs(
        data=load_task(config).fingerprint,
        model_files=description_digests(weights) if weights else {},
        precision=find_device(config.trainer.precision).precision,
        code=code_of(config.adapter.method, config.task.loader, [config.task.metric, *config.task.more_metrics]),
    )


def folder_of(config: Config) -> Path:
    """Where the run is stored."""
    return run_folder(config, inputs_of(config))
