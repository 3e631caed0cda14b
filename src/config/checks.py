"""The rules for values and combinations that need no model, no data and no heavy import."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.ranges import Range
from src.errors import UserError, nearest_first
from src.metrics import RUNS_CODE, check_metric

if TYPE_CHECKING:
    from src.config.schema import AdaptedModel, AdapterConfig, Config, ModelConfig, TaskConfig, TrainerConfig
    from src.judging.client import JudgeConfig

ROLES = ("query", "key", "value", "output", "ffn_up", "ffn_down", "gate")
AXES = ("rank", "alpha", "target", "lr")
PRECISIONS = ("auto", "bf16", "fp32")
SCHEDULES = ("linear", "cosine", "constant")
TRACKING_MODES = ("offline", "online", "none")
QUANTIZATIONS = ("none", "nf4", "int8")
PROTOCOLS = ("strict", "paper")
DTYPES = ("float32", "bfloat16")
GENERAL_TEXT = "pydoc"  # the text for forgetting that every Python has
OPTIMIZERS = ("adamw", "adamw_8bit", "adamw_paged", "adamw_paged_8bit")
CHECKPOINTS = ("last", "best_validation")
LOSS = "loss"  # the one validation metric that isn't computed from texts
FORMATS = ("table", "csv", "json")


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a value that is none of those allowed."""
    if value not in allowed:
        raise UserError(f"{key}={value} is not known.\nAllowed: {', '.join(nearest_first(value, allowed))}.")


def check_choices(config: "Config") -> None:
    """Refuse unknown names, and a model of another architecture than the task's."""
    check_choice("trainer.precision", config.trainer.precision, PRECISIONS)
    check_choice("trainer.schedule", config.trainer.schedule, SCHEDULES)
    check_choice("trainer.optimizer", config.trainer.optimizer, OPTIMIZERS)
    check_choice("trainer.checkpoint", config.trainer.checkpoint, CHECKPOINTS)
    check_choice("tracking.mode", config.tracking.mode, TRACKING_MODES)
    check_choice("quantization", config.quantization, QUANTIZATIONS)
    check_choice("protocol", config.protocol, PROTOCOLS)
    check_choice("model.dtype", config.model.dtype, DTYPES)
    for metric in (config.task.metric, *config.task.more_metrics):
        check_metric(metric)
    if config.task.validation_metric is not None:
        check_choice("task.validation_metric", config.task.validation_metric, [LOSS])
        if config.task.architecture != "causal_lm":
            raise UserError("task.validation_metric=loss is of a written answer's tokens.\nAllowed here: null.")
    if config.model.architecture != config.task.architecture:
        raise UserError(
            f"task={config.task.name} needs a {config.task.architecture}, "
            f"model={config.model.name} is a {config.model.architecture}.\n"
            "Choose a model and a task of the same architecture (see conf/model and conf/task)."
        )


def check_precision(config: "Config") -> None:
    """Refuse base weights in fewer bits where something has to be trained in them."""
    if config.adapter.trains_base and config.quantization != "none":
        raise UserError(
            f"adapter={config.adapter.name} trains weights of the base model; quantization={config.quantization} "
            "freezes them in fewer bits.\nAllowed: quantization=none, or a method that adds its own weights."
        )
    trained = f"adapter={config.adapter.name} trains weights of the base model" if config.adapter.trains_base else None
    if trained and config.model.dtype != "float32":
        raise UserError(f"{trained}, for which model.dtype={config.model.dtype} is too coarse.\nAllowed: float32.")


def check_length(config: "Config") -> None:
    """Refuse texts longer than the model can read, where its yaml says how long that is."""
    task, sizes = config.task, {**config.model.sizes, **config.model.config}
    longest = sizes.get("max_position_embeddings") or sizes.get("n_positions")
    if longest and task.max_length + task.max_new_tokens > longest:
        raise UserError(
            f"task={task.name} needs {task.max_length + task.max_new_tokens} tokens (task.max_length={task.max_length} "
            f"and task.max_new_tokens={task.max_new_tokens}); model={config.model.name} reads {longest}.\n"
            "Lower one of the two."
        )


def check_answers(task: "TaskConfig") -> None:
    """Refuse settings of written answers where a classifier writes none."""
    given = {"max_new_tokens": task.max_new_tokens, "temperature": task.temperature, "stop": task.stop}
    for name, value in given.items():
        if value and task.architecture == "classifier":
            raise UserError(
                f"task.{name}={value} is for written answers, and task={task.name} has a classifier's.\n"
                "Leave it out, or choose a task with written answers."
            )


def check_micro_batch(trainer: "TrainerConfig") -> None:
    """Refuse parts of a batch that are larger than it."""
    size = trainer.micro_batch_size
    if size is not None and size > trainer.batch_size:
        raise UserError(
            f"trainer.micro_batch_size={size} is more than trainer.batch_size={trainer.batch_size}, of which it is a "
            f"part.\nAllowed: 1 to {trainer.batch_size}, or null: what fits."
        )


def check_axes(adapter: "AdapterConfig") -> None:
    """Refuse an axis that doesn't exist among those that a method says it responds to."""
    for axis in adapter.axes:
        check_choice("adapter.axes", axis, AXES)


def check_sampling(task: "TaskConfig") -> None:
    """Refuse several texts a prompt where they would be equal, or where the metric takes one."""
    if task.samples > 1 and not (task.temperature > 0 and task.metric in RUNS_CODE):
        raise UserError(
            f"task.samples={task.samples} texts a prompt are for {', '.join(RUNS_CODE)}, drawn at a temperature; "
            f"this is {task.metric} at task.temperature={task.temperature:g}.\n"
            "Set task.samples=1, or task.temperature above 0."
        )
    k = task.metric_options.get("k", 1)
    if not 1 <= k <= task.samples:
        raise UserError(f"task.metric_options.k={k} can't be had of task.samples={task.samples}.\nAllowed: 1 to that.")


def check_text(text: str) -> None:
    """Refuse a text for forgetting that isn't there."""
    if text not in ("none", GENERAL_TEXT) and not Path(text).is_file():
        raise UserError(
            f"forgetting={text} is no file.\nAllowed: {GENERAL_TEXT} (text that comes with Python), a text file, none."
        )


def check_permissions(config: "Config") -> None:
    """Refuse a task that runs a model's code, unless the user agreed."""
    if config.task.metric in RUNS_CODE and not config.task.allow_code_execution:
        raise UserError(
            f"task={config.task.name} runs code that a model wrote and nobody has read, in a sandbox without network, "
            "files or secrets (src/sandbox/outside.py says what it protects from).\n"
            "Set task.allow_code_execution=true to agree, or trainer.score_test=false to train alone."
        )


def check_duration(trainer: "TrainerConfig") -> None:
    """Refuse a length of training that is given twice, or not at all."""
    if (trainer.max_steps is None) == (trainer.epochs is None):
        said = "neither says" if trainer.epochs is None else "both say"
        raise UserError(
            f"trainer.max_steps={_shown(trainer.max_steps)} and trainer.epochs={_shown(trainer.epochs)}: {said} how "
            "long to train.\nAllowed: one of the two, and null for the other.\n"
            "Set trainer.epochs=null to train for trainer.max_steps, or trainer.max_steps=null to train for "
            "trainer.epochs."
        )


def _shown(value: float | None) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def check_judge_numbers(judge: "JudgeConfig") -> None:
    """Refuse numbers out of their ranges for the judge, whose fields, unlike others, have no rules beside them."""
    rules = {"timeout_seconds": Range(0, above=True), "retries": Range(0), "workers": Range(1)}
    for name, rule in rules.items():
        rule.check(f"task.judge.{name}", getattr(judge, name))


def check_role_names(model: "ModelConfig") -> None:
    """Refuse a model whose yaml has matrices under a role that no target could name."""
    for role in model.roles:
        if role not in ROLES:
            allowed = ", ".join(f"model.roles.{known}" for known in nearest_first(role, ROLES))
            raise UserError(f"model.roles.{role} is no role.\nAllowed: {allowed}.")


def check_roles(config: "AdaptedModel") -> None:
    """Refuse a target with roles that don't exist, that the model doesn't have, or with none."""
    asked = f"target={config.target.name}" if config.has_axis("target") else f"adapter={config.adapter.name}"
    optional = config.target.optional_roles if config.has_axis("target") else []
    for role in [*config.target_roles(), *optional]:
        if role not in ROLES:
            raise UserError(
                f"{asked} names the role '{role}', which doesn't exist.\n"
                f"Allowed: {', '.join(nearest_first(role, ROLES))}."
            )
    has = ", ".join(config.model.roles) or "no role; methods without a target need none"
    missing = [role for role in config.target_roles() if role not in config.model.roles]
    if missing:
        raise UserError(
            f"{asked} needs {', '.join(missing)}, which model={config.model.name} doesn't have.\n"
            f"It has: {has}.\n"
            f"Choose another target, or set target.roles=[...] to roles that the model has."
        )
    if not config.target_roles():
        raise UserError(f"{asked} names no role.\nAllowed: {has}.")


def check_rank(config: "AdaptedModel") -> None:
    """Refuse a rank above the size of a matrix that it is for."""
    for role in config.target_roles():
        size = config.model.roles[role]
        largest = min(size.out_features, size.in_features)
        if config.rank > largest:
            raise UserError(
                f"rank={config.rank} is above the size of {config.model.name}'s {role} matrix "
                f"({size.out_features} x {size.in_features}).\n"
                f"Allowed with target={config.target.name}: 1 to {largest}."
            )
