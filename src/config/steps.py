"""How long a run trains: optimizer steps, given as such or as passes over the training rows."""

import math
from dataclasses import replace

from src.config.schema import Config


def steps_of(epochs: float, train_rows: int, batch_size: int) -> int:
    """Optimizer steps in so many passes over the rows, as the Hugging Face Trainer counts them.

    The incomplete batch at the end of a pass counts as a step. Training here leaves it out and begins the next pass
    (`src.training.batches.LengthBuckets`), so that the steps are up to one batch a pass more than the passes.
    """
    return max(1, math.ceil(epochs * math.ceil(train_rows / batch_size)))


def resolved_steps(config: Config, train_rows: int) -> Config:
    """The same run with `trainer.max_steps` in place of `trainer.epochs`; the config itself where it has steps.

    Args:
        train_rows: rows of the training split, without those that are held out for validation.
    """
    trainer = config.trainer
    if trainer.epochs is None:
        return config
    steps = steps_of(trainer.epochs, train_rows, trainer.batch_size)
    return replace(config, trainer=replace(trainer, max_steps=steps, epochs=None))
