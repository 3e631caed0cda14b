"""A model's weight files: which there are in a folder, and the checksum that names their content."""

import hashlib
from functools import lru_cache
from pathlib import Path

from src.errors import UserError

PATTERNS = ("*.safetensors", "pytorch_model*.bin")  # the first that a folder has any of


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's weights, in the order of their names; none where the folder has none."""
    return next((found for pattern in PATTERNS if (found := sorted(folder.glob(pattern)))), [])


def local_checksum(name: str, path: str) -> str:
    """The checksum of the weights in a user's folder, `model.path`.

    Raises:
        UserError: it isn't a model's folder.
    """
    folder = Path(path)
    needed = {"config.json": (folder / "config.json").is_file(), " or ".join(PATTERNS): bool(weight_files(folder))}
    missing = [what for what, there in needed.items() if not there]
    if missing:
        has = ", ".join(sorted(own.name for own in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise UserError(
            f"model.path={path} has no {' and no '.join(missing)} (it has: {has or 'nothing'}).\n"
            f"Give the folder where {name} was saved by transformers' save_pretrained or downloaded from the hub."
        )
    return checksum(folder)


def checksum(folder: Path) -> str:
    """SHA-256 of the weights in a folder: of the file, or of the files' own checksums where there are several."""
    each = [_sha256(path, path.stat().st_mtime_ns) for path in weight_files(folder)]
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
