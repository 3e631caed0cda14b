"""Copies of one command do each run once, and what one of them leaves undone the others do."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from src.config.schema import Config
from src.running import shared_runs, workers
from src.running.inputs import folder_of
from src.running.shared_runs import do_shared
from src.running.sweep import Plan

Make = Callable[..., Config]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What runs answer, in turn; those asked for, settled and held; what happens while there is nothing to do."""
    facts = SimpleNamespace(answers=[], asked=[], settled=set(), held=set(), while_waiting=[])

    def run(config: Config, plan: Any) -> str:
        facts.asked.append(folder_of(config))
        return str(facts.answers.pop(0))

    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(shared_runs, "settled", lambda config: folder_of(config) in facts.settled)
    monkeypatch.setattr(shared_runs, "is_held", lambda folder: folder in facts.held)
    monkeypatch.setattr("src.running.shared_runs.time.sleep", lambda seconds: facts.while_waiting.pop(0)())
    yield facts
    assert not facts.answers
    assert not facts.while_waiting


PLAN = Plan("", [], [])


def test_a_run_that_another_worker_holds_comes_last_and_is_done_if_it_is_left(
    told: SimpleNamespace, tiny: Make
) -> None:
    held, free = (tiny(f"seed={seed}") for seed in (0, 1))
    told.answers = ["done", "failed"]
    told.held = {folder_of(held)}
    told.while_waiting = [lambda: None, told.held.clear]
    ended = [(folder_of(ended.config), ended.state) for ended in do_shared([held, free], PLAN)]
    assert ended == [(folder_of(free), "done"), (folder_of(held), "failed")]
    assert told.asked == [folder_of(free), folder_of(held)]


def test_a_run_that_another_worker_was_quicker_to_claim_is_waited_for(told: SimpleNamespace, tiny: Make) -> None:
    config = tiny()
    told.answers = ["running"]
    told.while_waiting = [lambda: told.settled.add(folder_of(config))]
    assert list(do_shared([config], PLAN)) == []
    assert told.asked == [folder_of(config)]


def test_no_run_is_begun_once_none_may_be(told: SimpleNamespace, tiny: Make) -> None:
    told.answers = ["done"]
    configs = [tiny(f"seed={seed}") for seed in (0, 1)]
    assert [ended.state for ended in do_shared(configs, PLAN, may_begin=lambda: not told.asked)] == ["done"]
    assert told.asked == [folder_of(configs[0])]
