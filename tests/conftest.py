"""Shared by all tests: one thread a worker, configs composed as the command line composes them, the tiny model."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # two workers share two cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import pytest

from src.config.composer import composer
from src.config.schema import Config
from src.results.identity import Inputs

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("TASK_DATA", ROOT.parent / "shared" / "data"))  # original files; see CONTRIBUTING.md
HANG_SECONDS = 1800  # what takes as long hangs; no measure of speed, which is the machine's and its other users'
TINY = ["model=tiny_llama", "task=reverse_words", "tracking=none", "trainer=smoke"]


def composed(*overrides: str) -> Config:
    """The checked config of a command line."""
    with composer() as reader:
        config: Config = reader.config(overrides)
    return config


def some_inputs(data: str = "rows", **changes: Any) -> Inputs:
    """What a run computes with beside its config, where a test doesn't need real data and weights."""
    code = dict.fromkeys(("method", "loader", "metrics", "training"), "0" * 16)
    return Inputs(**{"data": data, "model_files": {}, "precision": "fp32", "code": code, **changes})


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """Makes configs of seconds-long runs on the tiny model, with results in the test's own folder."""
    return lambda *overrides: composed(*TINY, f"results_dir={tmp_path}", f"cache_dir={tmp_path}", *overrides)


def real_data(path: str) -> Path:
    """A file or folder of the tasks' original data; the test is skipped where it isn't."""
    if not (REAL_DATA / path).exists():
        pytest.skip(f"{path} is not under {REAL_DATA}; set TASK_DATA to the folder with the tasks' original files")
    return REAL_DATA / path


def as_on_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[dict[str, Any]]], config: str = "default"
) -> Path:
    """Write splits as a data set's repository on the hub has them, and let tasks find it there; returns its folder."""
    import datasets

    (folder / config).mkdir(parents=True)
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, rows in splits.items():
        name = f"{config}/{split}-00000-of-00001.parquet"
        datasets.Dataset.from_list(rows).to_parquet(str(folder / name))
        lines += [f"  - split: {split}", f"    path: {name}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    monkeypatch.setattr("src.tasks.source.hub_folder", lambda *args, **kwargs: folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder.parent / "datasets")  # it knows folders by name
    return folder


def run_program(
    module: str, *arguments: str, timeout_seconds: float = HANG_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds
    )


def run_here(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`run_program` in this process, for commands whose imports would take most of the time."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patched,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patched.setattr(sys, "argv", [module, *arguments])
        try:
            importlib.import_module(module).main()
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess([module, *arguments], status, out.getvalue(), err.getvalue())
