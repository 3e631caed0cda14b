"""Where a result comes from: code, packages, machine, command."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.credentials import redacted
from src.results.code import ROOT, Code
from src.results.schema import Provenance

PACKAGES = (
    "torch", "transformers", "accelerate", "datasets", "evaluate", "hydra-core", "wandb", "numpy", "pandas",
    "safetensors", "tokenizers", "peft", "bitsandbytes", "scipy", "scikit-learn", "matplotlib", "sympy", "networkx",
    "plotly", "statsmodels",
)  # fmt: skip
CODE_FOLDERS = ("src", "conf")
LONGEST_DIFF = 500_000  # characters; a longer one is another code base rather than a change, and isn't kept
# Whatever the user's settings for people to read are, `git apply` must take it.
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--binary", "--src-prefix=a/", "--dst-prefix=b/")


def provenance(device: dict[str, Any], code: Code) -> Provenance:
    """Revision and uncommitted changes, fingerprints, versions, machine, command and time, as plain JSON values."""
    revision, diff = _revision(), uncommitted_diff()
    return {
        "code": code,
        "git_revision": revision,
        "git_dirty": None if diff is None else bool(diff),
        **({"git_diff": diff} if diff and len(diff) <= LONGEST_DIFF else {}),  # type: ignore[typeddict-item]
        "packages": _versions(),
        "cuda": _cuda(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        "command": redacted(this_command()),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def made_with(device: dict[str, Any]) -> dict[str, str]:
    """What must be one and the same for all of a run: the device, by its name and format, and the packages."""
    return {"device": f"{device['name']}, {device['precision']}", **_versions()}


def this_command() -> str:
    """This process's command line, to be pasted into a shell."""
    return shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])


def note_code() -> None:
    """Take down revision and changes now: somebody may edit the code while it runs."""
    _revision()
    uncommitted_diff()


@lru_cache(maxsize=1)
def _revision() -> str | None:
    """The commit that is checked out; None where this is no git checkout."""
    revision = _git("rev-parse", "HEAD")
    return revision and revision.strip()


@lru_cache(maxsize=1)
def uncommitted_diff() -> str | None:
    """What `src` and `conf` differ in from the commit, new files too, for `git apply`; None outside of git."""
    changed = _git(*DIFF, "HEAD", "--", *CODE_FOLDERS)
    untracked = _git("ls-files", "--others", "--exclude-standard", "--", *CODE_FOLDERS)
    if changed is None or untracked is None:
        return None
    added = [_git(*DIFF, "--no-index", "--", "/dev/null", name, expected=1) for name in untracked.splitlines()]
    return redacted(changed + "".join(text or "" for text in added))


def _git(*arguments: str, expected: int = 0) -> str | None:
    """What git prints; None where it isn't there or ends with another status than expected."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace")
    except OSError:
        return None
    return done.stdout if done.returncode == expected else None


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
