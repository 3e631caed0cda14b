"""Where libraries keep files: below the home directory, or in the run's own cache where there is no such place."""

import os
import tempfile
from pathlib import Path

from src.errors import UserError


def place_caches(folder: Path) -> None:
    """Point libraries that would write where nobody can to `folder`; to be called before they are imported.

    A user without a home directory, one whose home is `/` or read-only, and a hub cache that an administrator filled
    are all the same to a run: what is there is read, what has to be written goes elsewhere.

    Raises:
        UserError: nothing can be written in `folder` either, or there is no folder for temporary files.
    """
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise UserError("No folder for temporary files can be written.\nSet TMPDIR to one that can.") from error
    unset = {name: path for name, path in _defaults().items() if name not in os.environ and not _can_write(path)}
    # An existing one is read, though nothing can be added.
    unset = {name: path for name, path in unset.items() if name != "HF_HUB_CACHE" or not path.is_dir()}
    if not unset:
        return
    own = folder.absolute() / "libraries"
    if not _can_write(own):
        if not any(name.startswith("HF_") for name in unset):
            return  # matplotlib and W&B find themselves a place
        raise UserError(
            f"cache_dir={folder} can't be written, nor can the home directory, and libraries need one of them.\n"
            "Set cache_dir=<folder> to one that can, or HOME."
        )
    for name in unset:
        os.environ[name] = str(own / name.lower())


def _defaults() -> dict[str, Path]:
    """The folders that libraries write to, by the variable that moves each, where it is by default."""
    home, environ = Path(os.path.expanduser("~")), os.environ  # noqa: PTH111 - Path.home() fails without a home
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    hub = Path(environ.get("HF_HOME") or cache / "huggingface")
    return {
        "HF_HUB_CACHE": hub / "hub",
        "HF_MODULES_CACHE": hub / "modules",
        "HF_DATASETS_CACHE": hub / "datasets",
        "HF_EVALUATE_CACHE": hub / "evaluate",
        "HF_METRICS_CACHE": hub / "metrics",
        "MPLCONFIGDIR": config / "matplotlib",
        "TRITON_CACHE_DIR": home / ".triton",
        "WANDB_CONFIG_DIR": config / "wandb",
        "WANDB_CACHE_DIR": cache / "wandb",
        "WANDB_DATA_DIR": Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "wandb",
    }


def _can_write(path: Path) -> bool:
    """Say whether files can be made in the folder, which may have to be made first."""
    if not path.is_absolute():  # "~" that stands for nothing
        return False
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    # Tried, as permissions say nothing to root and nothing of a file system that is read-only or no real one.
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError:
        return False
    return True
