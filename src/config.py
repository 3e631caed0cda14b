"""The typed configuration of a run and of a count, and the checks that need no model, no data and no heavy import.

Hydra fills these dataclasses (types and unknown keys are its errors); `Config.checked` adds the rules that
concern values and combinations. A sweep checks all of its runs this way before the first one starts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from src.errors import UserError, nearest_first
from src.judging.client import JudgeConfig
from src.metrics import RUNS_CODE, check_known
from src.weights import local_checksum

ROLES = ("query", "key", "value", "output", "ffn_up", "ffn_down", "gate")
PRECISIONS = ("auto", "bf16", "fp32")
SCHEDULES = ("linear", "cosine", "constant")
TRACKING_MODES = ("offline", "online", "none")
QUANTIZATIONS = ("none", "nf4", "int8")
PROTOCOLS = ("strict", "paper")
DTYPES = ("float32", "bfloat16")
GENERAL_TEXT = "pydoc"  # the text for forgetting that every Python has
CHECKPOINTS = ("last", "best_validation")
LOSS = "loss"  # the one validation metric that isn't computed from texts
FORMATS = ("table", "csv", "json")


@dataclass
class AdapterConfig:
    """A method: the class that implements it, and which axes of a sweep it responds to.

    `axes` is a subset of rank, alpha, target, lr: an axis that a method doesn't have is no part of its runs'
    identity, so a method without a rank runs once in a rank sweep. `roles` is the target set of a method that has
    its own; `any_rank` says that the rank isn't bound by the size of a matrix, `trains_base` that weights of the base
    model are trained. `alpha` is the default, or `alpha_per_rank` times the rank. An option that is null is off and
    no part of the identity. `config` holds what the bridge to PEFT needs: a `PeftConfig` class as `_target_` and its
    arguments.
    """

    name: str = MISSING
    method: str = MISSING
    axes: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    any_rank: bool = False
    trains_base: bool = False
    lr: float | None = None
    alpha: float | None = None
    alpha_per_rank: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class RoleConfig:
    """Where a model keeps a role: a module name with `*` for the layer, and the matrix's size.

    Where a layer has several such modules, as an encoder-decoder does, their names are joined by " | ".
    """

    module: str = MISSING
    out_features: int = MISSING
    in_features: int = MISSING


@dataclass
class ModelConfig:
    """A base model: where its weights come from, its head, and the map from roles to module names.

    Weights come from the folder `path`, else from a folder inside an installed package, else from the hub at a pinned
    revision (`weights` is the pattern of their files there); or they are drawn from `init_seed` for a model built from
    `config`. `dtype` is the floating-point format of the frozen weights; what is trained has float32. `sizes` is what
    the hub's own configuration says of the architecture: enough to build the model without weights, to count it.
    `fused` names the modules that hold several roles in one matrix, and the linear layers they are split into.
    """

    name: str = MISSING
    architecture: str = MISSING
    path: str | None = None
    package: str | None = None
    package_folder: str = ""
    package_pip: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    weights: str = "*.safetensors"
    weights_sha256: str | None = None
    dtype: str = "float32"
    tokenizer: str | None = None
    init_seed: int | None = None
    head: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    fused: dict[str, list[str]] = field(default_factory=dict)
    layers: int = MISSING
    roles: dict[str, RoleConfig] = field(default_factory=dict)


def model_config(values: dict[str, Any]) -> ModelConfig:
    """A model's config from plain values, such as those of its yaml or of a record."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), values))
    assert isinstance(config, ModelConfig)
    return config


@dataclass
class TargetConfig:
    """A set of roles to adapt; an optional role is left out where the model doesn't have it."""

    name: str = MISSING
    roles: list[str] = field(default_factory=list)
    optional_roles: list[str] = field(default_factory=list)


@dataclass
class SourceConfig:
    """Where one part of a task's data comes from: a file of `task.data_dir`, or a split of a data set on the hub."""

    file: str | None = None
    hub_id: str | None = None
    hub_config: str | None = None
    revision: str | None = None
    split: str | None = None


@dataclass
class TaskConfig:
    """A data set with its metric; `loader` names the function that makes rows of its records.

    `sources` has the parts that the loader asks for: "train", "test", or "test_<set>" where a split is made of several
    sets. They are read from the folder `data_dir`, from the hub where it is null. `columns` names the records' columns
    by what they are to the task, `prompt` is a template over them. `validation_size` rows of the training data are held
    out where a data set has no validation split of its own.

    `metric` is the primary one, `more_metrics` are recorded beside it; `validation_metric` "loss" replaces it on
    validation: the mean negative log-likelihood of an answer's tokens. A text is written greedily, or drawn
    `samples` times at `temperature`; it ends at the first of the `stop` strings.
    """

    name: str = MISSING
    loader: str = MISSING
    architecture: str = MISSING
    metric: str = MISSING
    max_length: int = MISSING
    max_new_tokens: int = 0
    version: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    prompt: str = ""
    validation_size: int = 0
    more_metrics: list[str] = field(default_factory=list)
    validation_metric: str | None = None
    metric_options: dict[str, Any] = field(default_factory=dict)
    samples: int = 1
    temperature: float = 0.0
    stop: list[str] = field(default_factory=list)
    allow_code_execution: bool = False
    judge: JudgeConfig = field(default_factory=JudgeConfig)


def task_config(values: dict[str, Any]) -> TaskConfig:
    """A task's config from plain values, such as those of its yaml or of a record."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), values))
    assert isinstance(config, TaskConfig)
    return config


@dataclass
class TrainerConfig:
    """Everything about the optimisation that all methods of a comparison share.

    `checkpoint` is the state that is saved and scored: that of the last step, or of the best validation.
    """

    name: str = MISSING
    max_steps: int = MISSING
    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    eval_every: int = MISSING
    head_lr: float = MISSING
    warmup_ratio: float = MISSING
    schedule: str = MISSING
    weight_decay: float = MISSING
    max_grad_norm: float = MISSING
    precision: str = MISSING
    calibration_samples: int = MISSING
    eval_limit: int | None = None
    score_test: bool = True
    checkpoint: str = "last"

    @property
    def warmup_steps(self) -> int:
        """Number of steps over which the learning rate rises to its full value, at least 1."""
        return max(1, round(self.warmup_ratio * self.max_steps))


@dataclass
class TuningConfig:
    """How `python -m src.tune` chooses learning rates; no part of a run.

    Each cell of a sweep gets `trials` rates half a decade apart around its own, an odd number, all with the seed
    `seed`; where the best is at the edge, up to `extensions` further ones.
    """

    trials: int = 5
    extensions: int = 0
    seed: int = 100


@dataclass
class SweeperConfig:
    """The sweeper in `src/plugins`: axes as Hydra's own has them, and blocks of axes that belong together."""

    _target_: str = "hydra_plugins.linked_sweeper.LinkedSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None
    blocks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class TrackingConfig:
    """Where runs are mirrored: W&B offline, W&B online, or nowhere."""

    name: str = MISSING
    mode: str = MISSING
    project: str = MISSING


@dataclass
class AdaptedModel:
    """A method on a model: everything that decides which parameters there are, and the method's learning rate."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    rank: int = 8
    alpha: float | None = None
    lr: float | None = None

    @classmethod
    def from_hydra(cls, composed: DictConfig) -> Self:
        """Turn what Hydra composed into a checked config with `alpha` and `lr` filled in.

        Raises:
            UserError: a value or a combination that can't be, with the remedy.
        """
        keys = [str(key) for key in composed if key != "hydra"]
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.masked_copy(composed, keys)))
        assert isinstance(config, cls)
        return config.checked()

    def checked(self) -> Self:
        """Fill in the defaults that depend on other values, and refuse a method that doesn't fit the model."""
        if self.has_axis("alpha") and self.alpha is None:
            self.alpha = self.adapter.alpha or (self.adapter.alpha_per_rank or 1.0) * self.rank
        if self.has_axis("lr") and self.lr is None:
            self.lr = self.adapter.lr
        _check_least({"rank": (self.rank, 1)})
        if self.has_axis("target") or self.adapter.roles:
            _check_roles(self)
        if self.has_axis("rank") and not self.adapter.any_rank:
            _check_rank(self)
        return self

    def has_axis(self, axis: str) -> bool:
        """Say whether the method responds to `axis` (rank, alpha, target or lr)."""
        return axis in self.adapter.axes

    def target_roles(self) -> list[str]:
        """The roles that are adapted: the method's own, else the target's with the optional ones the model has."""
        if not self.has_axis("target"):
            return self.adapter.roles
        return [*self.target.roles, *(role for role in self.target.optional_roles if role in self.model.roles)]


@dataclass
class CountConfig(AdaptedModel):
    """What the parameter ledger counts, without a task; `num_labels` is the size of a classifier's head."""

    num_labels: int = 2
    format: str = "table"

    def checked(self) -> Self:
        """Refuse what can't be counted or printed."""
        _check_choice("format", self.format, FORMATS)
        _check_least({"num_labels": (self.num_labels, 1)})
        return super().checked()


@dataclass
class Config(AdaptedModel):
    """One run, complete."""

    task: TaskConfig = field(default_factory=TaskConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    quantization: str = "none"
    protocol: str = "strict"
    forgetting: str = GENERAL_TEXT
    seed: int = 0
    results_dir: str = "results"
    cache_dir: str = ".cache"

    def checked(self) -> Self:
        """Fill in the defaults that depend on other values, and refuse what can't be run."""
        _check_choices(self)
        _check_numbers(self)
        _check_precision(self)
        _check_length(self)
        _check_sampling(self.task)
        _check_text(self.forgetting)
        if self.trainer.score_test:
            _check_permissions(self)
        if self.model.path and not self.model.weights_sha256:
            self.model.weights_sha256 = local_checksum(self.model.name, self.model.path)
        return super().checked()


def _check_choice(key: str, given: str, allowed: Iterable[str]) -> None:
    if given not in allowed:
        raise UserError(f"{key}={given} is not known.\nAllowed: {', '.join(nearest_first(given, allowed))}.")


def _check_least(smallest: dict[str, tuple[float, float]]) -> None:
    for key, (given, least) in smallest.items():
        if given < least:
            raise UserError(f"{key}={given} is too small.\nAllowed: {least} or more.")


def _check_choices(config: Config) -> None:
    _check_choice("trainer.precision", config.trainer.precision, PRECISIONS)
    _check_choice("trainer.schedule", config.trainer.schedule, SCHEDULES)
    _check_choice("trainer.checkpoint", config.trainer.checkpoint, CHECKPOINTS)
    _check_choice("tracking.mode", config.tracking.mode, TRACKING_MODES)
    _check_choice("quantization", config.quantization, QUANTIZATIONS)
    _check_choice("protocol", config.protocol, PROTOCOLS)
    _check_choice("model.dtype", config.model.dtype, DTYPES)
    for metric in (config.task.metric, *config.task.more_metrics):
        check_known(metric)
    if config.task.validation_metric is not None:
        _check_choice("task.validation_metric", config.task.validation_metric, [LOSS])
        if config.task.architecture != "causal_lm":
            raise UserError("task.validation_metric=loss is of a written answer's tokens.\nAllowed here: null.")
    if config.model.architecture != config.task.architecture:
        raise UserError(
            f"task={config.task.name} needs a {config.task.architecture}, "
            f"model={config.model.name} is a {config.model.architecture}.\n"
            "Choose a model and a task of the same architecture (see conf/model and conf/task)."
        )


def _check_precision(config: Config) -> None:
    """Refuse base weights in fewer bits where something has to be trained in them."""
    if config.adapter.trains_base and config.quantization != "none":
        raise UserError(
            f"adapter={config.adapter.name} trains weights of the base model; quantization={config.quantization} "
            "freezes them in fewer bits.\nAllowed: quantization=none, or a method that adds its own weights."
        )
    trained = f"adapter={config.adapter.name} trains weights of the base model" if config.adapter.trains_base else None
    trained = f"model={config.model.name} has a head to train" if config.model.head else trained
    if trained and config.model.dtype != "float32":
        raise UserError(f"{trained}, for which model.dtype={config.model.dtype} is too coarse.\nAllowed: float32.")


def _check_length(config: Config) -> None:
    """Refuse texts longer than the model can read, where its yaml says how long that is."""
    task, sizes = config.task, {**config.model.sizes, **config.model.config}
    longest = sizes.get("max_position_embeddings") or sizes.get("n_positions")
    if longest and task.max_length + task.max_new_tokens > longest:
        raise UserError(
            f"task={task.name} needs {task.max_length + task.max_new_tokens} tokens (task.max_length={task.max_length} "
            f"and task.max_new_tokens={task.max_new_tokens}); model={config.model.name} reads {longest}.\n"
            "Lower one of the two."
        )


def _check_sampling(task: TaskConfig) -> None:
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


def _check_text(given: str) -> None:
    """Refuse a text for forgetting that isn't there."""
    if given not in ("none", GENERAL_TEXT) and not Path(given).is_file():
        raise UserError(
            f"forgetting={given} is no file.\nAllowed: {GENERAL_TEXT} (text that comes with Python), a text file, none."
        )


def _check_permissions(config: Config) -> None:
    """Refuse a task that runs a model's code, unless the user agreed."""
    if config.task.metric in RUNS_CODE and not config.task.allow_code_execution:
        raise UserError(
            f"task={config.task.name} runs code that a model wrote and nobody has read, in a sandbox without network, "
            "files or secrets (src/sandbox.py says what it protects from).\n"
            "Set task.allow_code_execution=true to agree, or trainer.score_test=false to train alone."
        )


def _check_numbers(config: Config) -> None:
    trainer = config.trainer
    _check_least(
        {
            "seed": (config.seed, 0),
            "trainer.max_steps": (trainer.max_steps, 1),
            "trainer.batch_size": (trainer.batch_size, 1),
            "trainer.eval_batch_size": (trainer.eval_batch_size, 1),
            "trainer.eval_every": (trainer.eval_every, 1),
            "trainer.calibration_samples": (trainer.calibration_samples, 1),
            "trainer.eval_limit": (1 if trainer.eval_limit is None else trainer.eval_limit, 1),
            "trainer.weight_decay": (trainer.weight_decay, 0),
            "trainer.warmup_ratio": (trainer.warmup_ratio, 0),
            "task.max_length": (config.task.max_length, 2),
            "tuning.trials": (config.tuning.trials, 3),
            "tuning.extensions": (config.tuning.extensions, 0),
            "tuning.seed": (config.tuning.seed, 0),
            "task.samples": (config.task.samples, 1),
            "task.temperature": (config.task.temperature, 0),
        }
    )
    if config.tuning.trials % 2 == 0:
        raise UserError(
            f"tuning.trials={config.tuning.trials} is even.\nAllowed: odd numbers; the middle is the prior."
        )
    for key, rate in (("lr", config.lr), ("alpha", config.alpha), ("trainer.head_lr", trainer.head_lr)):
        if rate is not None and not rate > 0:
            raise UserError(f"{key}={rate} can't train anything.\nAllowed: a number above 0.")


def _check_roles(config: AdaptedModel) -> None:
    asked = f"target={config.target.name}" if config.has_axis("target") else f"adapter={config.adapter.name}"
    optional = config.target.optional_roles if config.has_axis("target") else []
    for role in [*config.target_roles(), *optional]:
        if role not in ROLES:
            raise UserError(
                f"{asked} names the role '{role}', which doesn't exist.\n"
                f"Allowed: {', '.join(nearest_first(role, ROLES))}."
            )
    missing = [role for role in config.target_roles() if role not in config.model.roles]
    if missing:
        raise UserError(
            f"{asked} needs {', '.join(missing)}, which model={config.model.name} doesn't have.\n"
            f"It has: {', '.join(config.model.roles)}.\n"
            f"Choose another target, or set target.roles=[...] to roles that the model has."
        )
    if not config.target_roles():
        raise UserError(f"{asked} names no role.\nAllowed: {', '.join(config.model.roles)}.")


def _check_rank(config: AdaptedModel) -> None:
    for role in config.target_roles():
        size = config.model.roles[role]
        largest = min(size.out_features, size.in_features)
        if config.rank > largest:
            raise UserError(
                f"rank={config.rank} is above the size of {config.model.name}'s {role} matrix "
                f"({size.out_features} x {size.in_features}).\n"
                f"Allowed with target={config.target.name}: 1 to {largest}."
            )


ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(group="hydra/sweeper", name="linked", node=SweeperConfig, provider="src")
ConfigStore.instance().store(name="count_schema", node=CountConfig)
