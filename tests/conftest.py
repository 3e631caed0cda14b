"""Shared by all tests: one thread a worker, configs composed as the command line composes them, the tiny model."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two workers share two cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hydra import compose, initialize_config_dir

from src.config import Config

ROOT = Path(__file__).parents[1]
TINY = ["model=tiny_llama", "task=reverse_words", "tracking=none", "trainer=smoke"]


def composed(*overrides: str) -> Config:
    """The checked config of a command line."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Config.from_hydra(compose("config", list(overrides)))


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """Makes configs of seconds-long runs on the tiny model, with results in the test's own folder."""
    return lambda *overrides: composed(*TINY, f"results_dir={tmp_path}", f"cache_dir={tmp_path}", *overrides)


def run_program(module: str, *arguments: str, timeout_seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds
    )
