"""The directions that LoRA-SB starts from, estimated once for all ranks, rates and target sets of a sweep.

What is known of one probe lies in a file of the cache folder, by the content of all that decides it; a target set that
needs more matrices adds them. A damaged file is made again.
"""

import json
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from src.adapters.base import UpdateDirection
from src.adapters.calibrate import update_directions
from src.adapters.decomposition import KEPT_VECTORS
from src.config.memo import kept
from src.files import replacing
from src.models.base_model import find_weights
from src.models.weights import description_digests
from src.results.code import fingerprint
from src.results.digests import digest, tensor_digest
from src.results.identity import decisive
from src.running.assemble import method_of
from src.running.prepare import Prepared
from src.streams import stream_generator, stream_seed
from src.training.batches import Example, by_length, collate
from src.training.loss import mean_loss

PROBE_BATCH = 64
Directions = dict[str, UpdateDirection]


def directions(run: Prepared, model: PreTrainedModel, targets: list[str]) -> Directions:
    """The targets' update directions, from the gradient at a probe of the training texts."""
    keep = max(run.config.rank, KEPT_VECTORS)
    known = _known(run, keep)
    if missing := [name for name in targets if name not in known]:
        known.update(_estimated(run, model, missing, keep))
        _write(_path(run, keep), known)
    return {name: known[name] for name in targets}


def largest_residual(run: Prepared) -> dict[str, float]:
    """How far a run's start is from singular vectors, as it is recorded; empty for methods without such a start."""
    if not method_of(run.config).needs_gradient:
        return {}
    known = _known(run, max(run.config.rank, KEPT_VECTORS))
    return {"start_residual": max((direction.residual for direction in known.values()), default=0.0)}


def _probe(run: Prepared) -> list[Example]:
    """The texts behind the gradient."""
    examples, samples = run.examples["train"], run.config.trainer.calibration_samples
    # Drawn from a stream of its own: the order in training stays what it is without a probe.
    drawn = torch.randperm(len(examples), generator=stream_generator(run.config.seed, "gradient_probe"))
    return [examples[index] for index in drawn[:samples].tolist()]


def _dropout_seed(run: Prepared) -> int | None:
    probes_dropout = run.config.adapter.options.get("probe_dropout")
    return stream_seed(run.config.seed, "gradient_probe") if probes_dropout else None


def _estimated(run: Prepared, model: PreTrainedModel, targets: list[str], keep: int) -> Directions:
    probe, pad_token_id = _probe(run), run.base.tokenizer.pad_token_id
    batches = [collate([probe[index] for index in batch], pad_token_id) for batch in by_length(probe, PROBE_BATCH)]
    on_device = [{name: tensor.to(run.device.type) for name, tensor in batch.items()} for batch in batches]
    return update_directions(model, targets, on_device, loss=mean_loss, keep=keep, dropout_seed=_dropout_seed(run))


def _path(run: Prepared, keep: int) -> Path:
    """Where the directions of a probe are kept: by all that decides them, and neither rank, alpha nor rate."""
    config, weights = run.config, find_weights(run.config.model)
    decides = {
        "model": decisive(config)["model"],
        "files": description_digests(weights) if weights else {},
        # A classifier's head is drawn by the run's seed.
        "head_seed": config.seed if config.model.head else None,
        "computing": [config.quantization, run.device.type, run.device.precision, run.device.attention],
        "probe": _probe(run),
        "dropout_seed": _dropout_seed(run),
        "keep": keep,
        "code": [fingerprint("src.adapters.calibrate"), fingerprint("src.training.loss"), torch.__version__],
    }
    return Path(config.cache_dir) / "starts" / f"{digest(decides)}.safetensors"


@kept(1, key=_path)
def _known(run: Prepared, keep: int) -> Directions:
    """What the cache has of a probe; nothing where it has none, or it is damaged."""
    path = _path(run, keep)
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        residuals: dict[str, float] = json.loads(about["residuals"])
        if about["digest"] != _digest(tensors):
            return {}
        return {
            name: UpdateDirection(tensors[f"{name}.U"], tensors[f"{name}.S"], tensors[f"{name}.Vh"], residual)
            for name, residual in residuals.items()
        }
    except (OSError, ValueError, KeyError, SafetensorError):
        return {}


def _write(path: Path, known: Directions) -> None:
    tensors = {
        f"{name}.{part}": getattr(direction, part) for name, direction in known.items() for part in ("U", "S", "Vh")
    }
    residuals = json.dumps({name: direction.residual for name, direction in known.items()})
    # A cache that can't be written, as on a full disk, costs the next run its time and this one nothing.
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"residuals": residuals, "digest": _digest(tensors)})


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest({name: tensor_digest(tensor) for name, tensor in tensors.items()})
