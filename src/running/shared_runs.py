"""The runs of a sweep in the hands of its workers, and runs that several copies of a command share."""

import time
from collections.abc import Callable, Iterable, Iterator

from src.config.schema import Config
from src.results.store import is_held
from src.running.inputs import folder_of
from src.running.sweep import Plan
from src.running.tuning import settled
from src.running.workers import Ended, Workers, workers_of

POLL_SECONDS = 2.0


def do_all(configs: Iterable[Config], plan: Plan) -> None:
    """Do each run once; what another command's worker holds is left to it."""
    with workers_of(plan) as workers:
        for _ in _ended(configs, workers):
            pass


def do_shared(configs: list[Config], plan: Plan, may_begin: Callable[[], bool] = lambda: True) -> Iterator[Ended]:
    """Do what isn't settled, and wait for what other workers hold, to do what they leave undone.

    Args:
        may_begin: asked before each run; once it says no, none is begun, and those under way are waited for.

    Yields:
        Each run that was done here, when it has ended.
    """
    left = configs
    with workers_of(plan) as workers:
        while left and may_begin():
            held: list[Config] = []
            for ended in _ended(_free(left, held, may_begin), workers):
                if ended.state == "running":  # another worker was quicker
                    held.append(ended.config)
                else:
                    yield ended
            left = held
            if left:
                time.sleep(POLL_SECONDS)


def _free(configs: list[Config], held: list[Config], may_begin: Callable[[], bool]) -> Iterator[Config]:
    """The runs to do; those that another worker holds go to `held`: one may fail there, or be left unfinished."""
    for config in configs:
        if is_held(folder_of(config)):
            held.append(config)
        elif not settled(config) and may_begin():
            yield config


def _ended(configs: Iterable[Config], workers: Workers) -> Iterator[Ended]:
    """Give the workers runs as long as there are some; each is asked for only when a worker has none."""
    left = iter(configs)
    while (config := next(left, None)) is not None:
        workers.begin(config)
        if workers.is_full:
            yield workers.ended()
    while workers.is_busy:
        yield workers.ended()
