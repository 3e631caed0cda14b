"""What makes two runs the same run: everything that can change a result, and nothing else.

The identity has what the config decides (methods and loaders by name and version, roles for the target's name, without
the axes that a method doesn't have, without paths and tracking) and what the run computes with: the data, the model's
files, the precision that `auto` stands for, and the code. Runs with equal identities share one folder.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.config.schema import Config, ModelConfig, TaskConfig, TrainerConfig
from src.metrics import ASKS_A_JUDGE
from src.results.code import Code
from src.results.equivalences import canonical, equal_codes

MODEL_KEYS = ("hub_id", "weights_sha256", "init_seed", "head", "config", "roles")
TASK_KEYS = ("name", "version", "architecture", "metric", "max_length", "max_new_tokens", "options")
# Decisive too, but no part of the identity at their defaults. A task's rows are in the fingerprint of its data.
OPTIONAL_TASK_KEYS = (
    "more_metrics", "validation_metric", "metric_options", "samples", "temperature", "stop",
)  # fmt: skip
OPTIONAL_TRAINER_KEYS = ("checkpoint", "adam_eps", "optimizer")  # likewise

# They cost time and memory, and change nothing.
SAME_GRADIENTS = ("micro_batch_size", "checkpointing", "cuda_graphs", "checkpoint_minutes")


@dataclass(frozen=True)
class Inputs:
    """What a run computes with beside its config."""

    data: str  # the fingerprint of the task's rows
    model_files: dict[str, str]  # digests of the model's config and of its tokenizer; empty where it is drawn
    precision: str  # bf16 or fp32
    code: Code  # fingerprints by part


def identity(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Everything that determines the run's result, as plain JSON values."""
    values = decisive(config)
    values["model"]["files"] = inputs.model_files
    values["task"]["fingerprint"] = inputs.data
    values["trainer"]["precision"] = inputs.precision
    return values | {"code": canonical(inputs.code)}


def decisive(config: Config) -> dict[str, Any]:
    """The part of the identity that the config alone decides."""
    axes: dict[str, Any] = {"rank": config.rank, "alpha": config.alpha, "lr": config.lr}
    axes["target"] = sorted(config.target_roles()) if config.has_axis("target") else []
    choices = {"quantization": config.quantization, "protocol": config.protocol}
    return {
        "adapter": _adapter(config),
        **{key: choice for key, choice in choices.items() if choice not in ("none", "strict")},
        **{axis: axes[axis] for axis in sorted(axes) if config.has_axis(axis)},
        "model": _model(config.model),
        "task": _task(config.task),
        "trainer": _trainer(config.trainer),
        "seed": config.seed,
    }


def _adapter(config: Config) -> dict[str, Any]:
    """The method by its class's name, so that its file may move; its options, but for those that are off."""
    adapter = config.adapter
    return {
        "method": adapter.method.rpartition(".")[2],
        "version": adapter.version,
        "options": {key: value for key, value in adapter.options.items() if value is not None},
        **{key: getattr(adapter, key) for key in ("roles", "config") if getattr(adapter, key)},
    }


def _model(config: ModelConfig) -> dict[str, Any]:
    model = asdict(config)
    values = {key: model[key] for key in MODEL_KEYS}
    if config.weights_sha256 is None and config.revision:
        values["revision"] = config.revision
    return values | ({"dtype": config.dtype} if config.dtype != "float32" else {})


def _task(config: TaskConfig) -> dict[str, Any]:
    task, default = asdict(config), asdict(TaskConfig())
    return {
        **{key: task[key] for key in TASK_KEYS},
        "loader": config.loader.rpartition(".")[2],
        **{key: task[key] for key in OPTIONAL_TASK_KEYS if task[key] != default[key]},
        **({"judge": config.judge.model} if config.metric in ASKS_A_JUDGE else {}),
    }


def _trainer(config: TrainerConfig) -> dict[str, Any]:
    values, default = asdict(config), TrainerConfig()
    at_default = {key for key in OPTIONAL_TRAINER_KEYS if values[key] == getattr(default, key)}
    # What decays is said wherever something does, and that there is no warm-up: older runs meant all, and one step.
    undecayed = set() if config.weight_decay else {"decay_all"}
    no_warmup = {} if config.warmup_ratio else {"warmup": "none"}
    # Gradients of parts add up to the whole batch's: how many there are is the machine's business.
    left_out = {"name", "epochs", *SAME_GRADIENTS} | at_default | undecayed
    kept = {key: value for key, value in values.items() if key not in left_out}
    return kept | no_warmup | {"max_steps": config.steps}


def run_folder(config: Config, inputs: Inputs) -> Path:
    """The run's folder: `<results_dir>/runs/<task>/<model>/<adapter>-r<rank>-<target>-s<seed>-<hash8>`.

    Where the run was made by another code that is proven equal, it is that one's.
    """
    values = identity(config, inputs)
    names = [run_name(config, values | {"code": code}) for code in equal_codes(inputs.code)]
    folders = [Path(config.results_dir) / "runs" / config.task.name / config.model.name / name for name in names]
    return next((folder for folder in folders if folder.exists()), folders[0])


def run_name(config: Config, values: dict[str, Any]) -> str:
    """The name of a run's folder, given its identity: its axes, and eight hex digits of the identity's hash."""
    parts = [config.adapter.name]
    if config.has_axis("rank"):
        parts.append(f"r{config.rank}")
    if config.has_axis("target"):
        parts.append(config.target.name)
    if config.quantization != "none":
        parts.append(config.quantization)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([*parts, f"s{config.seed}", digest])
