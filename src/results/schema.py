"""What a run's record holds: typed once, for those that write one and those that read it.

A record is `result.json` in a run's folder. One of a run that isn't done has no more than the required keys.
"""

from typing import Any, NotRequired, TypedDict

# Raised by one whenever a key is added, leaves or means another thing; `src.results.migration` brings older records up.
SCHEMA_VERSION = 2


class SplitScore(TypedDict):
    """One split's score: its metric, direction and unit ("share", or a word), over `n` items."""

    name: str
    value: float
    higher_is_better: bool
    unit: str
    n: int
    more: NotRequired[dict[str, float]]  # other metrics, and parts of the primary one
    sets: NotRequired[dict[str, float]]  # of a split that is made of several sets


class Seconds(TypedDict):
    """What a run took; `train_seconds` is without validation, which `eval_seconds` has."""

    train_seconds: float
    eval_seconds: float
    setup_seconds: float
    run_seconds: float
    tokens_per_second: float


class Memory(TypedDict):
    """What training took: the GPU's peak, or on a CPU what autograd keeps for backward, in bytes."""

    saved_for_backward_bytes: int
    peak_allocated_bytes: int | None
    precision: str
    batch_size: int
    tokens: int


class Checkpoint(TypedDict):
    """The step whose state was kept, and by which rule."""

    rule: str
    step: int | None


class Forgetting(TypedDict):
    """Loss on general text before and after training."""

    text: str
    fingerprint: str
    tokens: int
    unit: str
    before: float
    after: float


class Data(TypedDict):
    """By split: rows, examples as long as allowed, items that are cut, and items that occur more than once."""

    rows: dict[str, int]
    at_max_length: dict[str, int]
    cut: NotRequired[dict[str, dict[str, int]]]  # of `items`, those whose `inputs` and whose `answers` are cut
    overlap: dict[str, dict[str, int]]


class Provenance(TypedDict):
    """What a result was made with: code, packages, machine, command and time."""

    code: dict[str, str]  # fingerprints by part; of records from before there were any, the revision
    git_revision: str | None
    git_dirty: bool | None
    git_diff: NotRequired[str | None]  # of uncommitted code against the revision
    packages: dict[str, str]
    cuda: NotRequired[str | None]
    python: str
    system: str
    device: dict[str, Any]
    command: str
    finished_at: str


class Record(TypedDict):
    """A run's record."""

    schema_version: int
    run_id: str
    state: str  # done, failed, diverged, out_of_memory or interrupted
    identity: dict[str, Any]  # see `src.results.identity`
    config: dict[str, Any]
    error: dict[str, str] | None  # class and message of the exception
    seeds: NotRequired[dict[str, int]]  # by stream
    metrics: NotRequired[dict[str, SplitScore]]  # by split
    parameters: NotRequired[dict[str, int]]  # the ledger's counts
    scaling: NotRequired[float | None]
    tensors: NotRequired[dict[str, str]]  # digests of what the adapter saves, by name
    time: NotRequired[Seconds]
    memory: NotRequired[Memory]
    checkpoint: NotRequired[Checkpoint]
    history: NotRequired[list[dict[str, float]]]  # {"step", "loss"} and {"step", "validation"} points
    data: NotRequired[Data]
    provenance: NotRequired[Provenance]
    warnings: NotRequired[list[str]]
    forgetting: NotRequired[Forgetting]
    smaller_ranks: NotRequired[list[dict[str, float]]]  # scores of ranks that the one training gave too
    tuning: NotRequired[dict[str, Any]]  # the trials that chose its rate
