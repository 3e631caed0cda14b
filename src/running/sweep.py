"""What a sweep adds to its runs: the plan, made and checked before the first one, and the place and time left.

The plan lies in the sweep's folder, where jobs in other processes find it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from src.caches import place_caches
from src.config.schema import Config
from src.files import write_json
from src.interrupts import note_end
from src.judging.client import check_judge
from src.metrics import ASKS_A_JUDGE
from src.models.base_model import empty_model, find_weights
from src.models.quantization import check_quantization, quantized_share
from src.results.store import check_writable, is_done, readable_record
from src.running.inputs import code_behind, folder_of
from src.running.options import check_run_options, check_task_options
from src.running.tracking import check_tracking
from src.sandbox.outside import isolating_backend
from src.tasks.base import load_task

PLAN = "plan.json"
# Why a run of this process left no record, by its folder: told at the end, and nowhere else.
UNRECORDED: dict[str, str] = {}


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, each once, in order; `to_run` are those that weren't done when it began.

    `workers` is how many of them are done at once here.
    """

    group: str
    folders: list[str]
    to_run: list[str]
    workers: int = 1

    @classmethod
    def of(cls, configs: list[Config], *, is_to_be_run: bool = True) -> "Plan":
        """Find the runs' folders, and check all that can be checked without loading a model.

        Args:
            is_to_be_run: whether results will be written, for which the results folder is tried.

        Raises:
            UserError: a run can't be done: its data, its weights or the results folder stand in the way.
        """
        for config in configs[:1]:  # all of a process share it
            place_caches(Path(config.cache_dir))
        for tracking in {config.tracking.mode: config.tracking for config in configs}.values():
            check_tracking(tracking)
        for config in {repr(config.task): config for config in configs}.values():
            code_behind(config)  # a loader that isn't there is told first
            check_task_options(config.task)
        for config in {repr(config.model): config for config in configs}.values():
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
        folders = {folder_of(config): config for config in configs}
        for results_dir in {config.results_dir for config in configs if is_to_be_run}:
            check_writable(Path(results_dir))
        # The group comes from the runs alone: every start of the same sweep has the same one.
        names = [str(folder) for folder in folders]
        group = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:8]
        to_run = [str(folder) for folder in folders if not is_done(folder)]
        check_run_options([folders[Path(folder)] for folder in to_run])
        return cls(group, names, to_run)

    @classmethod
    def read(cls, sweep_dir: Path) -> "Plan":
        """The plan that the sweep's start left in its folder."""
        return cls(**json.loads((sweep_dir / PLAN).read_text()))

    def write(self, sweep_dir: Path) -> None:
        """Leave the plan for the jobs."""
        sweep_dir.mkdir(parents=True, exist_ok=True)
        write_json(sweep_dir / PLAN, asdict(self))

    def position(self, folder: Path) -> str:
        """A run's number in the sweep, as in "[3/9]"."""
        return f"[{self.folders.index(str(folder)) + 1}/{len(self.folders)}]"

    def seconds_left(self) -> float | None:
        """Seconds that the runs still to do will take all the workers, at the mean of those done since the start."""
        records = [readable_record(Path(folder)) for folder in self.to_run]
        taken = [record["time"]["run_seconds"] for record in records if record and record["state"] == "done"]
        left = sum(record is None for record in records)
        return sum(taken) / len(taken) * left / self.workers if taken else None


@contextmanager
def closing_table(plan: Plan) -> Iterator[None]:
    """Print the table of a sweep's runs when the block ends, whatever ends it."""
    try:
        yield
    except BaseException:
        note_end()
        raise
    finally:
        from src.analysis.terminal import print_runs  # heavy

        print_runs([Path(folder) for folder in plan.folders], UNRECORDED)


def print_warnings(configs: list[Config]) -> None:
    """Say once what a reader of the scores should know of the data, and of scales that follow the rank."""
    for warning in dict.fromkeys(said for config in configs for said in load_task(config).warnings(config)):
        print(f"warning: {warning}", flush=True)
    for warning in drifting_scales(configs):
        print(f"warning: {warning}", flush=True)


def drifting_scales(configs: list[Config]) -> list[str]:
    """What to mind of methods whose scaling alpha / rank changes with the rank, where their own rule keeps it."""
    scales: dict[str, dict[int, set[float]]] = defaultdict(lambda: defaultdict(set))
    for config in configs:
        if config.adapter.alpha_per_rank and config.rank and config.alpha:
            scales[config.adapter.name][config.rank].add(config.alpha / config.rank)
    return [
        f"{name}'s scaling follows the rank ({', '.join(f'{min(at[rank]):g} at {rank}' for rank in sorted(at))}), so "
        "that both change together; without alpha=... it is the same at every rank"
        for name, at in scales.items()
        if all(len(values) == 1 for values in at.values()) and len(set.union(*at.values())) > 1
    ]
