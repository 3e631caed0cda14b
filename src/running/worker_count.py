"""How many workers a sweep has on this machine, and how many threads each of them."""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from src.config.schema import Config
from src.running.inputs import inputs_of
from src.tasks.base import load_task

SAYS_THREADS = "OMP_NUM_THREADS"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # what a container may use: microseconds of each so many
LIBRARIES_BYTES = 1_000_000_000  # of a worker, beside what its runs compute with
MARGIN = 1.5  # over a step's predicted memory: what is scored, loaded and in fragments
SHARE = 0.8  # of the machine's memory; of all and not of what is free, so that a command has as many workers again


def worker_count(asked: int | None, configs: Sequence[Config]) -> int:
    """How many of the runs are done at once.

    By itself it is one on a GPU, where OMP_NUM_THREADS says how many threads there are, and where a run's memory can't
    be told; else one for each core, as far as there are runs and memory for them.

    Args:
        asked: what the user says; None: what fits.
    """
    if asked or os.environ.get(SAYS_THREADS) or len(configs) < 2 or _has_gpu():
        return asked or 1
    by_cores = min(usable_cores(), len(configs))
    if by_cores == 1:
        return 1
    try:
        needed = _bytes(configs)
    except Exception:  # whatever a model does that has no numbers, it may run one at a time
        return 1
    return max(1, min(by_cores, int(SHARE * psutil.virtual_memory().total) // needed))


def threads_each(workers: int) -> int:
    """The threads of a worker, where the cores are shared out among so many."""
    return max(1, usable_cores() // workers)


def usable_cores() -> int:
    """The cores that this process may use: those it is bound to, or what its container's quota comes to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # there is none, or it is "max"
        return cores


def _has_gpu() -> bool:
    import torch  # heavy, and not needed by a sweep that is done

    return torch.cuda.is_available()


def _bytes(configs: Sequence[Config]) -> int:
    """The memory of a worker, by the largest of the runs."""
    from src.studies.memory import Computing, step_memory
    from src.training.device import find_device

    weights = {name: _weights(config) for name, config in {config.model.name: config for config in configs}.items()}

    def size(config: Config) -> tuple[int, int, bool, int]:
        texts = config.trainer.micro_batch_size or config.trainer.batch_size
        return weights[config.model.name], texts * config.task.max_length, not config.has_axis("rank"), config.rank

    largest = max(configs, key=size)
    attention, labels = find_device("fp32").attention, len(load_task(largest).data.label_names)
    texts = largest.trainer.micro_batch_size or largest.trainer.batch_size
    how = Computing(inputs_of(largest).precision, attention, labels)
    return LIBRARIES_BYTES + int(MARGIN * step_memory(largest, texts, largest.task.max_length, how).total)


def _weights(config: Config) -> int:
    from src.models.base_model import empty_model

    return sum(weight.numel() for weight in empty_model(config.model, num_labels=2).parameters())
