"""Digests of what a run leaves, by which two runs are compared bit for bit without their files."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open

HEX_DIGITS = 16


def tensor_digests(path: Path) -> dict[str, str]:
    """By name, a digest of each tensor in a safetensors file, its shape and format included."""
    with safe_open(path, framework="pt") as tensors:
        return {name: tensor_digest(tensors.get_tensor(name)) for name in sorted(tensors.keys())}


def tensor_digest(tensor: torch.Tensor) -> str:
    """A digest of a tensor on the CPU, its shape and format included."""
    content = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    content.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:HEX_DIGITS]


def prediction_digests(path: Path, columns: set[str] | None = None) -> dict[str, str]:
    """By split, a digest of its predictions, references and items' scores: of the columns named, by default of all."""
    table = pd.read_parquet(path)
    if columns is not None:
        table = table[[name for name in table if name in columns]]
    return {
        str(split): digest(rows.drop(columns="split").to_json(orient="split", index=False, double_precision=15))
        for split, rows in table.groupby("split", observed=True)
    }


def digest(content: object) -> str:
    """A digest of a text, or of plain JSON values."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS]
