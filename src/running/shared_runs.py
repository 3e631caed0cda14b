"""Runs that several copies of a command share: each is done once, by the copy that comes to it first."""

import time
from collections.abc import Iterator
from pathlib import Path

from src.config.schema import Config
from src.results.store import is_held
from src.running.inputs import folder_of
from src.running.lifecycle import run
from src.running.sweep import Plan
from src.running.tuning import settled

POLL_SECONDS = 2.0


def do_shared(configs: list[Config], plan: Plan) -> Iterator[tuple[Path, str, float]]:
    """Do what isn't settled, and wait for what other workers hold, to do what they leave undone.

    Yields:
        Of each run that was done here its folder, its state and the seconds that it took. A caller that stops asking
        stops the runs.
    """
    left = configs
    while left:
        held = []
        for config in left:
            # A run that another worker holds is asked for again: it may fail there, or be left unfinished.
            if is_held(folder_of(config)):
                held.append(config)
            elif not settled(config):
                begun = time.monotonic()
                state = run(config, plan)
                if state == "running":  # another worker was quicker
                    held.append(config)
                else:
                    yield folder_of(config), state, time.monotonic() - begun
        left = held
        if left:
            time.sleep(POLL_SECONDS)
