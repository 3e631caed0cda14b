"""Keep what the README promises true on every Python that is here: `make test-pythons`.

One session alone: `python -m nox -s newest-3.13`. Each makes an environment of its own in `.nox`; a Python that isn't
here is skipped. `TORCH` is as in `make setup`: without it each environment takes pip's own build of PyTorch, several
gigabytes on Linux.
"""

import os
import shlex
import tomllib
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PINNED = ["--constraint", "constraints.txt"]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["pinned", "newest", "oldest"]


@nox.session(python=PYTHONS)
def pinned(session: nox.Session) -> None:
    """The first run, the embedded task's rows and the fast tests, with the versions of constraints.txt."""
    _install(session, *PINNED, "--editable", ".[dev]")
    _pinned_rows(session)
    _first_run(session)
    _fast_tests(session)


@nox.session(python=PYTHONS)
def smoke(session: nox.Session) -> None:
    """What CI has time for on a second Python: the pinned versions install, give the same rows, and a run ends."""
    _install(session, *PINNED, "--editable", ".[dev]")
    _pinned_rows(session)
    _first_run(session, "trainer=smoke")


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The first run and the fast tests, with the newest versions that pyproject.toml allows."""
    _install(session, "--editable", ".[dev]")
    _first_run(session)
    _fast_tests(session)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The first run with the oldest versions of all direct dependencies, pyproject.toml's lower bounds."""
    oldest_versions = [bound.split(",")[0].replace(">=", "==") for bound in _dependencies()]
    _install(session, *oldest_versions, "--editable", ".")
    _first_run(session)


def _dependencies() -> list[str]:
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]


def _install(session: nox.Session, *packages: str) -> None:
    torch = shlex.split(os.environ.get("TORCH", ""))
    if torch:
        session.install(*torch)
    session.install(*packages)


def _pinned_rows(session: nox.Session) -> None:
    test = "test_the_pinned_libraries_give_the_pinned_rows_on_every_python"
    session.run("python", "-m", "pytest", "-q", "-rs", f"tests/test_tasks.py::{test}")


def _first_run(session: nox.Session, *options: str) -> None:
    """The first of the nine runs of `make quickstart`, with results and cache of its own."""
    folder = session.create_tmp()
    places = [f"results_dir={folder}/results", f"cache_dir={folder}/cache"]
    session.run("python", "-m", "src.run", "adapter=lora", "rank=4", *places, *options)


def _fast_tests(session: nox.Session) -> None:
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", "-n", "2", *session.posargs)
