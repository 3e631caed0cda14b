"""What a sweep adds to its runs: the plan made and checked before the first, the place and time left, the end.

Hydra runs the jobs, with whichever launcher is configured. `SweepCallback` stands at both ends of that: it composes
and checks every run first, so that a mistake anywhere stops the sweep before it starts, and closes with the table.
The plan lies in the sweep's folder, where jobs in other processes find it.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.config.composition import job_configs, user_errors
from src.config.schema import Config
from src.files import write_json
from src.judging.client import check_judge
from src.metrics import ASKS_A_JUDGE
from src.models.base_model import empty_model, find_weights
from src.models.quantization import check_quantization, quantized_share
from src.results.store import check_writable, is_done, read_record
from src.running.inputs import folder_of
from src.sandbox.outside import isolating_backend
from src.tasks.base import load_task

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, each once, in order; `to_run` are those that weren't done when it began."""

    group: str
    folders: list[str]
    to_run: list[str]

    @classmethod
    def of(cls, configs: list[Config]) -> "Plan":
        """Find the runs' folders, and check all that can be checked without loading a model.

        Raises:
            UserError: a run can't be done: its data, its weights or the results folder stand in the way.
        """
        for config in configs:
            find_weights(config.model)
        # Once a kind, as the check multiplies a layer.
        for kind in {config.quantization for config in configs}:
            check_quantization(kind)
        for config in configs:
            if config.quantization != "none" and "model_type" in {**config.model.sizes, **config.model.config}:
                quantized_share(empty_model(config.model, num_labels=2), config)
        if any(config.task.allow_code_execution for config in configs):
            isolating_backend()
        for config in configs:
            if config.task.metric in ASKS_A_JUDGE and config.trainer.score_test:
                check_judge(config.task.judge)
        for config in [bridged for bridged in configs if bridged.adapter.config]:
            from src.quiet import quiet_libraries
            from src.running.assemble import method_of  # heavy, and only a bridge to another library needs it

            quiet_libraries()
            method_of(config).check(config)
        # Two jobs may ask for the same run; the keys of a dict are in order and each there once.
        folders = dict.fromkeys(folder_of(config) for config in configs)
        for results_dir in {config.results_dir for config in configs}:
            check_writable(Path(results_dir))
        # The group comes from the runs alone: every start of the same sweep has the same one.
        names = [str(folder) for folder in folders]
        group = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:8]
        return cls(group, names, [str(folder) for folder in folders if not is_done(folder)])

    @classmethod
    def read(cls, sweep_dir: Path) -> "Plan":
        """The plan that the sweep's start left in its folder."""
        return cls(**json.loads((sweep_dir / PLAN).read_text()))

    def write(self, sweep_dir: Path) -> None:
        """Leave the plan for the jobs."""
        sweep_dir.mkdir(parents=True, exist_ok=True)
        write_json(sweep_dir / PLAN, {"group": self.group, "folders": self.folders, "to_run": self.to_run})

    def position(self, folder: Path) -> str:
        """A run's number in the sweep, as in "[3/9]"."""
        return f"[{self.folders.index(str(folder)) + 1}/{len(self.folders)}]"

    def seconds_left(self) -> float | None:
        """Seconds that the runs still to do will take at the mean of those done since the start."""
        records = [read_record(Path(folder)) for folder in self.to_run]
        taken = [record["time"]["run_seconds"] for record in records if record and record["state"] == "done"]
        left = sum(record is None for record in records)
        return sum(taken) / len(taken) * left if taken else None


class SweepCallback(Callback):
    """Hydra's hooks around a sweep, and the checks before a single run.

    Hydra turns exceptions in callbacks into warnings, all but SystemExit, which `user_errors` raises.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run before Hydra makes its folder; a mistake ends the program with status 2."""
        with user_errors():
            configs = [Config.from_hydra(config)]
            Plan.of(configs)
            print_warnings(configs)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every run of the sweep and write the plan; a mistake ends the program with status 2."""
        with user_errors():
            configs = [Config.from_hydra(job) for job in job_configs(config, list(config.hydra.overrides.task))]
            plan = Plan.of(configs)
            plan.write(Path(config.hydra.sweep.dir))
            print_warnings(configs)
        done = len(plan.folders) - len(plan.to_run)
        print(f"sweep of {len(plan.folders)} runs: {done} done already, {len(plan.to_run)} to run", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of all runs; the exit status is 0 only if every one is done."""
        from src.analysis.terminal import print_runs

        plan = Plan.read(Path(config.hydra.sweep.dir))
        folders = [Path(folder) for folder in plan.folders]
        print_runs(folders)
        if not all(is_done(folder) for folder in folders):
            sys.exit(1)


def print_warnings(configs: list[Config]) -> None:
    """Say once what a reader of the scores should know of the data."""
    for warning in dict.fromkeys(said for config in configs for said in load_task(config).warnings(config)):
        print(f"warning: {warning}", flush=True)
