"""The W&B mirror of a run. `result.json` is the truth: a run without W&B loses nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from src.config.schema import TrackingConfig
from src.errors import UserError


class Tracker:
    """Passes metrics on to a W&B run, or to nothing."""

    def __init__(self, run: Any = None) -> None:
        self.run = run

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics at a training step."""
        if self.run is not None:
            self.run.log(metrics, step=step)

    def summarize(self, values: dict[str, Any]) -> None:
        """Record the run's final values."""
        if self.run is not None:
            self.run.summary.update(values)


@contextmanager
def tracked(
    settings: TrackingConfig, *, run_id: str, name: str, group: str, folder: Path, config: dict[str, Any]
) -> Iterator[Tracker]:
    """Track one run; it ends as failed in W&B where the block raises.

    Where W&B can't be reached, the run goes on and is tracked offline.

    Args:
        run_id: the same for the same run, so that a repetition replaces it.
        group: W&B's group, the same for all runs of a sweep.
        folder: where W&B's files go.

    Raises:
        UserError: online tracking without a key.
    """
    if settings.mode == "none":
        yield Tracker()
        return
    import wandb

    if settings.mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise UserError(
            "tracking=wandb_online needs a key.\nRun `wandb login`, set WANDB_API_KEY, or use tracking=none."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # The same id for the same run: W&B then replaces it, as the folder of results does.
    init = partial(wandb.init, project=settings.project, id=run_id, name=name, group=group, config=config)
    # Silent, as the terminal is for the run's own line.
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=30)
    init = partial(init, dir=str(folder), reinit="finish_previous", settings=quiet)
    try:
        run = init(mode="online", resume="allow") if settings.mode == "online" else init(mode="offline")
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0]
        print(f"\nW&B can't be reached ({reason}): this run is tracked offline, send it later with `wandb sync`")
        wandb.teardown()  # its service still holds the run's id
        run = init(mode="offline")
    try:
        yield Tracker(run)
    # An interrupt too: in W&B such a run has failed.
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)
