"""The checkpoint of a run under way: a snapshot of its training in its folder, from which another attempt goes on.

A safetensors file, with the values and a digest of everything in its header: nothing is unpickled, and what is damaged,
or was made with another device or other versions, is not gone on with.
"""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.files import replacing
from src.results.digests import digest, tensor_digest
from src.results.store import CHECKPOINT
from src.training.snapshots import Snapshot


def write_checkpoint(folder: Path, snapshot: Snapshot, made_with: dict[str, str], say: Callable[[str], None]) -> None:
    """Keep a snapshot in place of the one before; where it can't be written, training goes on without."""
    values = json.dumps({"step": snapshot.step, "values": snapshot.values, "made_with": made_with}, allow_nan=False)
    header = {"values": values, "digest": _digest(values, snapshot.tensors)}
    try:
        with replacing(folder / CHECKPOINT) as partial:
            save_file(snapshot.tensors, partial, metadata=header)
    except (OSError, SafetensorError) as error:
        say(f"{folder.name}: no checkpoint could be written ({getattr(error, 'strerror', None) or error})")


def read_checkpoint(folder: Path, made_with: dict[str, str], say: Callable[[str], None]) -> Snapshot | None:
    """The snapshot that an earlier attempt left; None where there is none that can be gone on with, which is said."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        if header["digest"] != _digest(header["values"], tensors):
            raise ValueError("its digest is another")
        content = json.loads(header["values"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        say(f"{folder.name}: its checkpoint is damaged ({error}), so it starts over")
        return None
    if content["made_with"] != made_with:
        other = [key for key in made_with if content["made_with"].get(key) != made_with[key]]
        say(f"{folder.name}: its checkpoint is of another {', '.join(other)}, so it starts over")
        return None
    say(f"{folder.name}: goes on after step {content['step']}")
    return Snapshot(content["step"], tensors, content["values"])


def _digest(values: str, tensors: dict[str, Tensor]) -> str:
    return digest([values, {name: tensor_digest(tensor) for name, tensor in tensors.items()}])
