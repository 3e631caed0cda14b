"""Where a result comes from: code, packages, machine, command."""

import importlib.metadata
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "evaluate", "hydra-core", "wandb", "numpy", "pandas",
    "safetensors", "tokenizers", "peft", "bitsandbytes", "scipy", "scikit-learn", "matplotlib", "sympy", "networkx",
    "plotly", "statsmodels",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def provenance(device: dict[str, Any]) -> dict[str, Any]:
    """Git revision and whether it was changed, versions, machine, command and time, as plain JSON values."""
    return {
        **_code(),
        "packages": _versions(),
        "cuda": _cuda(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache(maxsize=1)
def _code() -> dict[str, Any]:
    """The revision and whether files of the code differ from it; None where this is no git checkout."""
    revision = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "src", "conf")
    return {"git_revision": revision, "git_dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    """Versions of those packages that are installed; PyTorch's own word for it names the build, as in "2.13.0+cpu"."""
    import torch

    versions = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions | {"torch": str(torch.__version__)}


def _cuda() -> str | None:
    """The version of CUDA, or of ROCm, that PyTorch was built for; None for a CPU build."""
    import torch

    return torch.version.cuda or torch.version.hip
