"""The step that makes a config complete: its number of optimizer steps, for which the data must be there."""

from src.config.schema import Config
from src.config.steps import resolved_steps
from src.tasks.base import load_task


def with_steps(config: Config) -> Config:
    """The run's config with `trainer.max_steps`, as everything needs it that identifies, does or records a run.

    Raises:
        UserError: the run is given in epochs and its data can't be had.
    """
    if config.trainer.epochs is None:
        return config
    return resolved_steps(config, len(load_task(config).data.splits["train"]))
