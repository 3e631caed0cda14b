"""The typed configuration of a run and of a count.

`src.config.build` fills these dataclasses; a field's type says what its value may be (`src.config.ranges`), and
`Config.checked` adds the rules of `checks.py`. A sweep checks all of its runs this way before the first one starts.
"""

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from src.config import checks
from src.config.build import build
from src.config.checks import FORMATS, GENERAL_TEXT
from src.config.own_data import fill_in_kind
from src.config.ranges import LARGEST_INTEGER, Count, Name, NotNegative, Positive, Range, Seed, Share, Text, Whole
from src.credentials import check_no_secret
from src.judging.client import JudgeConfig, check_address
from src.models.weights import local_checksum


@dataclass
class AdapterConfig:
    """A method: the class that implements it, and which axes of a sweep it responds to."""

    name: Name = MISSING  # what `adapter=` takes, and the name in tables
    method: Text = MISSING  # the class in `src/adapters`, as a Python path
    version: Count = 1  # raised where the method means another one than before; part of its runs' identity
    # of rank, alpha, target, lr; another axis is no part of its runs' identity, so it is run once along it
    axes: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)  # the target set of a method that has its own
    any_rank: bool = False  # the rank isn't bound by the size of a matrix
    trains_base: bool = False  # weights of the base model are trained
    lr: Positive | None = None  # the learning rate where none is given
    alpha: Positive | None = None  # where none is given; null: alpha_per_rank times the rank
    alpha_per_rank: Positive | None = None  # alpha / rank, the scaling that stays the same for all ranks
    # the method's own; one that is null is off and no part of the identity
    options: dict[str, Any] = field(default_factory=dict)
    # for the bridge to PEFT: a `PeftConfig` class as `_target_`, and its arguments
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class RoleConfig:
    """Where a model keeps a role."""

    # its name with `*` for the layer; several in a layer, as an encoder-decoder has, joined by " | "
    module: Text = MISSING
    out_features: Count = MISSING  # rows of the matrix
    in_features: Count = MISSING  # columns of the matrix


@dataclass
class ModelConfig:
    """A base model: where its weights come from, its head, and the map from roles to module names.

    Weights come from the folder `path`, else from a folder inside an installed package, else from the hub; or they are
    drawn from `init_seed`.
    """

    name: Name = MISSING  # what `model=` takes, and the name in tables
    architecture: str = MISSING  # classifier, causal_lm or seq2seq_lm
    path: Text | None = None  # a folder with weights and tokenizer of one's own
    package: Text | None = None  # the installed package that holds the weights
    package_folder: str = ""  # the weights' folder in it
    package_pip: str | None = None  # what pip calls it
    hub_id: Text | None = None  # owner/name on the hub
    revision: str | None = None  # the commit there
    weights: Text = "*.safetensors"  # the pattern of the weights' files
    weights_sha256: str | None = None  # the checksum of their one file; a local folder's is found
    dtype: str = "float32"  # of the frozen weights: float32 or bfloat16; what is trained has float32
    init_seed: Seed | None = None  # draws the weights of a model built from `config`
    # modules that are trained with every method; what the checkpoint lacks of them is drawn from the run's seed
    head: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)  # fields of transformers' config that are set
    # what the hub's config.json says of the shapes: builds the model without weights, to count it
    sizes: dict[str, Any] = field(default_factory=dict)
    # modules that hold several roles in one matrix, with the linear layers they are split into; how many rows each has,
    # its role says
    fused: dict[str, list[str]] = field(default_factory=dict)
    layers: Count = MISSING  # how many blocks the model has, or each of its stacks
    # by stack, such as decoder.block, the number of its blocks where it is another than `layers`
    layers_of: dict[str, int] = field(default_factory=dict)
    # by name: query, key, value, output, ffn_up, ffn_down, gate
    roles: dict[str, RoleConfig] = field(default_factory=dict)

    def depth(self, module: str) -> int:
        """How many blocks have a module of that name, in which `*` stands for the block."""
        return self.layers_of.get(module.split(".*.")[0], self.layers)


def model_config(values: dict[str, Any]) -> ModelConfig:
    """A model's config from plain values, such as those of its yaml or of a record."""
    return build(ModelConfig, values)


@dataclass
class TargetConfig:
    """A set of roles to adapt."""

    name: Name = MISSING  # what `target=` takes, and the name in tables
    roles: list[str] = field(default_factory=list)  # all of them; a model without one is refused
    optional_roles: list[str] = field(default_factory=list)  # left out where the model doesn't have them


@dataclass
class SourceConfig:
    """Where one part of a task's data comes from: a file of `task.data_dir`, or a split of a data set on the hub."""

    file: Text | None = None  # below task.data_dir
    hub_id: Text | None = None  # owner/name on the hub
    hub_config: str | None = None  # the data set's configuration there
    revision: str | None = None  # the commit there
    split: str | None = None  # the split there


@dataclass
class SplitConfig:
    """What is held out of the training rows of one's own data where it has no such split."""

    validation: Share = 0.1  # share of each class
    test: Share = 0.2  # share of each class
    seed: Seed = 0  # another one holds out other rows


@dataclass
class TaskConfig:
    """A data set with its metric."""

    name: Name = MISSING  # what `task=` takes, and the name in tables
    loader: Text = MISSING  # the function that makes rows of the records, as a Python path
    kind: str | None = None  # of one's own data (`task=own`): classification, pairs, regression, choice or generation
    path: Text | None = None  # of one's own data: a file, a folder with a file a split, or owner/name[@revision]
    labels: list[str] = field(default_factory=list)  # the classes of one's own data; none: those of the training rows
    split: SplitConfig = field(default_factory=SplitConfig)  # of one's own data
    architecture: str = MISSING  # of the models that fit: classifier or causal_lm
    metric: str = MISSING  # the primary one, a folder in `src/metrics`
    # tokens of a text, or of a prompt with its answer; what is longer is cut
    max_length: Annotated[int, Range(2, LARGEST_INTEGER)] = MISSING
    max_new_tokens: Whole = 0  # tokens that are written as an answer at most
    version: Count = 1  # raised where the scores change but not the rows
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the loader
    data_dir: Text | None = None  # the folder of all tasks' files; null: the hub
    # by part: "train", "test", or "test_<set>" where a split is made of several sets
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)  # the records' columns by what they are to the task
    prompt: str = ""  # a template over them
    validation_size: Whole = 0  # training rows held out where the data set has no validation split
    more_metrics: list[str] = field(default_factory=list)  # recorded beside the primary one
    # "loss" in its place on validation: mean negative log-likelihood of an answer's tokens, nats
    validation_metric: str | None = None
    metric_options: dict[str, Any] = field(default_factory=dict)  # arguments of the metric
    samples: Count = 1  # texts drawn a prompt
    temperature: NotNegative = 0.0  # 0: written greedily
    stop: list[str] = field(default_factory=list)  # strings at the first of which a text ends
    allow_code_execution: bool = False  # the user agrees that a model's code is run, in a sandbox
    judge: JudgeConfig = field(default_factory=JudgeConfig)  # the model that rates answers


def task_config(values: dict[str, Any]) -> TaskConfig:
    """A task's config from plain values, such as those of its yaml or of a record."""
    return build(TaskConfig, values)


@dataclass
class TrainerConfig:
    """Everything about the optimization that all methods of a comparison share."""

    name: Name = MISSING  # what `trainer=` takes
    max_steps: Count | None = None  # optimizer steps; null where `epochs` says how long
    # passes over the training rows, in place of max_steps: exactly one of the two is null, so `trainer.epochs=3` needs
    # `trainer.max_steps=null` beside it; once the data is known it is null, and max_steps is what it comes to
    epochs: Positive | None = None
    batch_size: Count = MISSING  # texts a step
    # texts at once within a step, whose gradients add up; null: the whole batch, halved until it fits
    micro_batch_size: Count | None = None
    checkpointing: bool = False  # keep a block's input alone for backward, and compute the block again there
    optimizer: str = "adamw"  # or bitsandbytes': adamw_8bit, adamw_paged, adamw_paged_8bit
    cuda_graphs: bool = True  # on a GPU, record a classifier's steps and replay them, which gives the same
    checkpoint_minutes: NotNegative = 5.0  # between two states kept of a run under way, to go on from; 0: none
    eval_batch_size: Count = MISSING  # texts at once when scoring
    eval_every: Count = MISSING  # steps between two validations
    head_lr: Positive = MISSING  # the learning rate of the head, the same for all methods
    warmup_ratio: Share = MISSING  # share of the steps in which the rate rises; above 0 at least one step
    schedule: str = MISSING  # of the rate after that: linear, cosine or constant
    weight_decay: NotNegative = MISSING  # of AdamW; biases and norms are left alone, as transformers' Trainer does
    max_grad_norm: NotNegative = MISSING  # gradients are clipped to this norm; 0: never
    # auto, bf16 or fp32; auto takes bf16 autocast where it is measured to be faster and a step of the model in it is
    # finite and near fp32's
    precision: str = MISSING
    calibration_samples: Count = MISSING  # training texts behind a gradient that a method starts from
    eval_limit: Count | None = None  # items scored of a split, or of each set that it is made of; null: all
    score_test: bool = True  # false leaves the test split untouched, as trials of a rate do
    checkpoint: str = "last"  # which state is saved and scored: last or best_validation
    decay_all: bool = False  # weight decay acts on biases and norms too, as in a plain AdamW
    adam_eps: Positive = 1e-8  # AdamW's epsilon

    @property
    def steps(self) -> int:
        """Optimizer steps of the run.

        Raises:
            ValueError: they are given in epochs and not resolved yet.
        """
        if self.max_steps is None:
            raise ValueError(f"trainer.epochs={self.epochs} has no steps before `src.config.steps.resolved_steps`")
        return self.max_steps


@dataclass
class TuningConfig:
    """How `python -m src.tune` chooses learning rates; no part of a run."""

    trials: Annotated[int, Range(3, 99, odd=True)] = 5  # first rates a cell, half a decade apart around its own; odd
    # rates a cell beyond these and the two beside the best, at most: past an edge, and in place of those that broke
    extensions: Annotated[int, Range(0, 99)] = 6
    # of all trials; the two best rates are tried with the next one too, and no reported run has either
    seed: Annotated[int, Range(0, LARGEST_INTEGER - 1)] = 100


@dataclass
class SweeperConfig:
    """The axes of a study, in its yaml: the product of all `params`, or of them with each of the `blocks`."""

    params: dict[str, Any] | None = None  # axes with their values
    # axes that belong together, each block a grid of its own
    blocks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class TrackingConfig:
    """Where runs are mirrored."""

    name: Name = MISSING  # what `tracking=` takes
    mode: str = MISSING  # offline, online or none
    project: Text = MISSING  # the project's name in W&B


@dataclass
class AdaptedModel:
    """A method on a model: everything that decides which parameters there are, and the method's learning rate."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)  # the method
    model: ModelConfig = field(default_factory=ModelConfig)  # the base model
    target: TargetConfig = field(default_factory=TargetConfig)  # which of its matrices
    rank: Count = 8  # 1 or more
    alpha: Positive | None = None  # null: the method's own
    lr: Positive | None = None  # of what the method trains; null: the method's own

    @classmethod
    def from_hydra(cls, composed: DictConfig) -> Self:
        """Turn what Hydra composed into a checked config with `alpha` and `lr` filled in.

        Raises:
            UserError: a value or a combination that can't be, with the remedy.
        """
        values = OmegaConf.to_container(
            OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]), resolve=True
        )
        assert isinstance(values, dict)
        return build(cls, values).checked()

    def checked(self) -> Self:
        """Fill in the defaults that depend on other values, and refuse a method that doesn't fit the model."""
        if self.has_axis("alpha") and self.alpha is None:
            self.alpha = self.adapter.alpha or (self.adapter.alpha_per_rank or 1.0) * self.rank
        if self.has_axis("lr") and self.lr is None:
            self.lr = self.adapter.lr
        checks.check_role_names(self.model)
        checks.check_axes(self.adapter)
        if self.has_axis("target") or self.adapter.roles:
            checks.check_roles(self)
        if self.has_axis("rank") and not self.adapter.any_rank:
            checks.check_rank(self)
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

    num_labels: Count = 2  # outputs of a classifier's head
    format: str = "table"  # table, csv or json

    def checked(self) -> Self:
        """Refuse what can't be counted or printed."""
        checks.check_choice("format", self.format, FORMATS)
        return super().checked()


@dataclass
class Config(AdaptedModel):
    """One run, complete."""

    task: TaskConfig = field(default_factory=TaskConfig)  # the data and the metric
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # the optimization
    tracking: TrackingConfig = field(default_factory=TrackingConfig)  # the mirror in W&B
    tuning: TuningConfig = field(default_factory=TuningConfig)  # for `src.tune` alone
    quantization: str = "none"  # of the base model's linear layers: none, nf4 or int8
    # agree that some of the base's matrices stay in floating point, as a mixture's experts do; what share is recorded
    quantization_partial: bool = False
    protocol: str = "strict"  # strict, or paper: trained on everything and validated on the test split
    forgetting: str = GENERAL_TEXT  # general text whose loss is measured before and after: pydoc, a file, or none
    seed: Seed = 0  # of the run's streams: order of the data, adapter, head, dropout, probe
    results_dir: Text = "results"  # the folder of all results
    cache_dir: Text = ".cache"  # the folder of what can be made again

    def checked(self) -> Self:
        """Fill in the defaults that depend on other values, and refuse what can't be run."""
        fill_in_kind(self.task)
        checks.check_choices(self)
        checks.check_duration(self.trainer)
        checks.check_precision(self)
        checks.check_length(self)
        checks.check_answers(self.task)
        checks.check_sampling(self.task)
        checks.check_micro_batch(self.trainer)
        checks.check_judge_numbers(self.task.judge)
        checks.check_text(self.forgetting)
        check_address(self.task.judge)
        check_no_secret(asdict(self))
        if self.trainer.score_test:
            checks.check_permissions(self)
        if self.model.path and not self.model.weights_sha256:
            self.model.weights_sha256 = local_checksum(self.model.name, self.model.path)
        return super().checked()


ConfigStore.instance().store(name="schema", node=Config)
ConfigStore.instance().store(group="hydra/sweeper", name="linked", node=SweeperConfig, provider="src")
ConfigStore.instance().store(name="count_schema", node=CountConfig)
