"""What makes two runs the same run.

The identity is everything that can change a result and nothing else: the resolved config without paths and
tracking, without the axes that the method doesn't have, plus the hash of the model's weights, the fingerprint
of the data and the version of the code's results. Runs with equal identities share one folder.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.config.schema import Config, ModelConfig, TaskConfig, TrainerConfig
from src.metrics import ASKS_A_JUDGE
from src.results.store import RESULTS_VERSION

MODEL_KEYS = ("hub_id", "weights_sha256", "init_seed", "head", "config", "roles")
TASK_KEYS = ("name", "loader", "architecture", "metric", "max_length", "max_new_tokens", "options")
# Decisive too, but no part of the identity at their defaults. A task's rows are in the fingerprint of its data.
OPTIONAL_TASK_KEYS = (
    "version", "more_metrics", "validation_metric", "metric_options", "samples", "temperature", "stop",
)  # fmt: skip


def identity(config: Config, data_fingerprint: str) -> dict[str, Any]:
    """Collect what determines the run's result, as plain JSON values."""
    task, usual = asdict(config.task), asdict(TaskConfig())
    axes: dict[str, Any] = {"rank": config.rank, "alpha": config.alpha, "lr": config.lr}
    axes["target"] = sorted(config.target_roles()) if config.has_axis("target") else []
    own = {key: getattr(config.adapter, key) for key in ("roles", "config") if getattr(config.adapter, key)}
    options = {key: value for key, value in config.adapter.options.items() if value is not None}
    choices = {"quantization": config.quantization, "protocol": config.protocol}
    chosen = {key: choice for key, choice in choices.items() if choice not in ("none", "strict")}
    return {
        "results_version": RESULTS_VERSION,
        "adapter": {"method": config.adapter.method, "options": options, **own},
        **chosen,
        **{axis: axes[axis] for axis in sorted(axes) if config.has_axis(axis)},
        "model": _model(config.model),
        "task": {
            **{key: task[key] for key in TASK_KEYS},
            **{key: task[key] for key in OPTIONAL_TASK_KEYS if task[key] != usual[key]},
            **({"judge": config.task.judge.model} if config.task.metric in ASKS_A_JUDGE else {}),
            "fingerprint": data_fingerprint,
        },
        "trainer": _trainer(config.trainer),
        "seed": config.seed,
    }


def _model(config: ModelConfig) -> dict[str, Any]:
    model = asdict(config)
    found = {key: model[key] for key in MODEL_KEYS}
    if config.weights_sha256 is None and config.revision:
        found["revision"] = config.revision
    return found | ({"dtype": config.dtype} if config.dtype != "float32" else {})


def _trainer(config: TrainerConfig) -> dict[str, Any]:
    left_out = {"name", "epochs"} | ({"checkpoint"} if config.checkpoint == "last" else set())
    return {key: value for key, value in asdict(config).items() if key not in left_out} | {"max_steps": config.steps}


def run_folder(config: Config, data_fingerprint: str) -> Path:
    """The run's folder: `<results_dir>/runs/<task>/<model>/<adapter>-r<rank>-<target>-s<seed>-<hash8>`."""
    text = json.dumps(identity(config, data_fingerprint), sort_keys=True)
    parts = [config.adapter.name]
    if config.has_axis("rank"):
        parts.append(f"r{config.rank}")
    if config.has_axis("target"):
        parts.append(config.target.name)
    if config.quantization != "none":
        parts.append(config.quantization)
    parts += [f"s{config.seed}", hashlib.sha256(text.encode()).hexdigest()[:8]]
    return Path(config.results_dir) / "runs" / config.task.name / config.model.name / "-".join(parts)
