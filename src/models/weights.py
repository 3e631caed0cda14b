"""A model's files: which there are in a folder, and the checksums that name the content of its weights and the rest."""

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.errors import UserError

PATTERNS = ("*.safetensors", "pytorch_model*.bin")  # the first that a folder has any of
# Beside the weights: the configuration, and whatever a tokenizer may be read from.
DESCRIPTION_FILES = ("*.json", "*.model", "*.txt", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.tiktoken", "*.jinja")
# Those of them that no tokenizer is read from: other configurations, an index of weights, what a training left.
OTHER_FILES = ("*config*.json", "modules.json", "*.index.json", "*_state.json", "*_results.json", "README*", "LICENSE*")
TOKENIZER_CONFIG = "tokenizer_config.json"
ADAPTER_CONFIG = "adapter_config.json"
# As transformers takes them: a file that holds all weights, else the index of several, and pickles last.
INDEXES = {"model.safetensors": "model.safetensors.index.json", "pytorch_model.bin": "pytorch_model.bin.index.json"}
# Keys of a model's JSON files that name a place or a version.
ORIGIN = {"_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "tokenizer_file", "cache_dir",
          "special_tokens_map_file", "local_files_only"}  # fmt: skip


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's weights, in the order of their names; none where the folder has none."""
    return next((paths for pattern in PATTERNS if (paths := sorted(folder.glob(pattern)))), [])


def local_checksum(name: str, path: str) -> str:
    """The checksum of the weights in a user's folder, `model.path`.

    Raises:
        UserError: it isn't a model's folder.
    """
    folder = Path(path)
    check_folder(name, folder)
    needed = {"config.json": (folder / "config.json").is_file(), " or ".join(PATTERNS): bool(weight_files(folder))}
    missing = [what for what, there in needed.items() if not there]
    if missing:
        has = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise UserError(
            f"model.path={path} has no {' and no '.join(missing)} (it has: {has or 'nothing'}).\n"
            f"Give the folder where {name} was saved by transformers' save_pretrained or downloaded from the hub."
        )
    return checksum(folder)


def check_folder(name: str, folder: Path) -> None:
    """See that a folder's files are those of one model in floating point, as far as their names and configs say.

    Raises:
        UserError: there is an adapter in it, its weights are quantized, or a part of them is missing.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"model={name}: {folder} has an {ADAPTER_CONFIG}, so transformers would put that adapter on the model.\n"
            "Give a folder with the base model alone, or one into which the adapter was merged."
        )
    quantized = _read_json(name, folder / "config.json").get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "") if isinstance(quantized, dict) else ""
        bits = "4" if "4bit" in str(quantized).replace("'load_in_4bit': False", "") else "8"
        kind = f"{bits} bits by {method}" if method == "bitsandbytes" else f"fewer bits ({method or 'quantized'})"
        raise UserError(
            f"model={name}: the weights in {folder} were saved in {kind}: they can't be had in floating point.\n"
            "Give the original model, and set quantization=nf4 or int8 to have it in fewer bits."
        )
    _check_shards(name, folder)


def _check_shards(name: str, folder: Path) -> None:
    whole = next((file for file, index in INDEXES.items() if (folder / file).is_file()), None)
    index = next((index for index in INDEXES.values() if (folder / index).is_file()), None)
    if whole or not index:
        return
    named = set(_read_json(name, folder / index).get("weight_map", {}).values())
    missing = sorted(shard for shard in named if not (folder / shard).is_file())
    if missing:
        raise UserError(
            f"model={name}: {folder} lacks {len(missing)} of the {len(named)} files that its {index} names: "
            f"{', '.join(missing[:3])}.\nCopy or download the folder again."
        )


def _read_json(name: str, path: Path) -> dict[str, Any]:
    """A file's content; nothing where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model={name}: {path} is no JSON: {error}.\nCopy or download the folder again.") from error
    return values if isinstance(values, dict) else {}


def checksum(folder: Path) -> str:
    """SHA-256 of the weights in a folder: of the file, or of the files' own checksums where there are several."""
    each = [_sha256(path, path.stat().st_mtime_ns) for path in weight_files(folder)]
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def description_digests(folder: Path) -> dict[str, str]:
    """Digests of a model's `config` and of its `tokenizer`: what two folders with equal weights can differ in."""
    return {
        "config": _content_digest([folder / "config.json"]),
        "tokenizer": _content_digest(tokenizer_files(folder)),
    }


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in a model's folder that a tokenizer may be read from, whatever kind of tokenizer it is."""
    paths = {path for pattern in DESCRIPTION_FILES for path in folder.glob(pattern)}
    others = {path for pattern in OTHER_FILES for path in folder.glob(pattern) if path.name != TOKENIZER_CONFIG}
    return sorted(paths - others)


def _content_digest(paths: list[Path]) -> str:
    """Sixteen hex digits for the files that are there, by name; paths and versions in JSON don't count."""
    digests = {path.name: _digest(path, path.stat().st_mtime_ns) for path in paths if path.is_file()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _digest(path: Path, changed_ns: int) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        with suppress(ValueError):  # a file that isn't JSON is what it is
            content = json.dumps(_without_origin(json.loads(content)), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _without_origin(values: Any) -> Any:
    """The same values without what says where a model was saved, and by which version."""
    return {key: value for key, value in values.items() if key not in ORIGIN} if isinstance(values, dict) else values
