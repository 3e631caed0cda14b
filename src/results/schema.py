"""What a run's record holds: typed once, for those that write one and those that read it.

A record is `result.json` in a run's folder. One of a run that isn't done has no more than the required keys.
"""

from functools import lru_cache
from types import UnionType
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

# Raised by one whenever a key leaves, means another thing or becomes required; `src.results.migration` brings older
# records up. A key that isn't required may come without: records that lack it are read as having none.
SCHEMA_VERSION = 2


class SecondaryScore(TypedDict):
    """How likely the right answers are, beside whether they were given: over the `n` items that have a number."""

    name: str  # log_probability or bits_per_byte: see `src.training.likelihood`
    value: float
    unit: str
    higher_is_better: bool
    n: int
    sets: NotRequired[dict[str, float]]


class SplitScore(TypedDict):
    """One split's score: its metric, direction and unit ("share", or a word), over `n` items."""

    name: str
    value: float
    higher_is_better: bool
    unit: str
    n: int
    more: NotRequired[dict[str, float]]  # other metrics, and parts of the primary one
    sets: NotRequired[dict[str, float]]  # of a split that is made of several sets
    secondary: NotRequired[SecondaryScore]  # records from before it have none, nor have tasks without a right answer


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
    micro_batch_size: NotRequired[int | None]
    tokens: int


class Checkpoint(TypedDict):
    """The step whose state was kept, and by which rule."""

    rule: str
    step: int | None


class Forgetting(TypedDict):
    """Loss on general text before and after training.

    Of a language model also in bits per byte, of the `bytes` of text that its `tokens` stand for.
    """

    text: str
    fingerprint: str
    tokens: int
    unit: str
    before: float
    after: float
    bytes: NotRequired[int]
    bits_per_byte: NotRequired[dict[str, float]]  # before and after


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


class StoredTrial(TypedDict):
    """A run that tried a rate; `validation` is None where there is no score, and `state` says why."""

    value: float
    state: str
    validation: float | None
    seed: NotRequired[int]  # of older trials, the tuning's
    flags: NotRequired[list[str]]


class TuningNoise(TypedDict):
    """What choosing the rate adds to the error, in the unit of the validation score; None where it isn't known."""

    trial_sd: float | None  # standard deviation of one trial's score at its rate
    pairs: int  # rates with a sound trial of both seeds
    regret: float | None  # how much better another tried rate is expected to be


class Tuning(TypedDict):
    """How a run's rate was chosen: the axis, the trials' seed, the trials, and whether the best lay at the edge.

    Records from before the second seed lack what isn't required.
    """

    axis: str
    seed: NotRequired[int]  # the first one
    trials: list[StoredTrial]
    chosen: float
    at_edge: bool
    beside_broken: NotRequired[bool]  # a neighbor of the chosen rate broke, and nothing else was left
    wanted: NotRequired[int]  # sound rates that were asked for
    why: NotRequired[str]  # the rate is the chosen one, in words
    noise: NotRequired[TuningNoise]


class Record(TypedDict):
    """A run's record."""

    schema_version: int
    run_id: str
    state: str  # one of `STATES`
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
    preflight: NotRequired[dict[str, Any]]  # see `src.running.preflight`; records from before it have none
    warnings: NotRequired[list[str]]  # what a reader of the scores should know, in words
    flags: NotRequired[list[str]]  # what makes the score itself doubtful, by kind: see `src.running.flags`
    forgetting: NotRequired[Forgetting]
    forgetting_skipped: NotRequired[str]  # why it couldn't be measured, where it was asked for
    quantized_share: NotRequired[float]  # of the base's matrix weights
    smaller_ranks: NotRequired[list[dict[str, float]]]  # scores of ranks that the one training gave too
    tuning: NotRequired[Tuning]  # the trials that chose its rate
    look_seeds: NotRequired[int]  # of the look of a group-sequential design for which the run was added: 5, 8 or 12


WHOLE = (StoredTrial, TuningNoise, Tuning, SecondaryScore)
STATES = ("done", "failed", "diverged", "out_of_memory", "interrupted")
ROUNDING = 1e-6  # of a mean over items
SAID_TWICE = ("seed", "rank", "alpha", "lr")  # in the identity, of which the run's folder is, and in the config


def misfit(value: Any, kind: Any, where: str = "") -> str | None:
    """Say where a value from JSON isn't of a type of this schema, as in "config is 7"; None where all of it is.

    Keys that are missing are no misfit but in `WHOLE`: older records lack some, and whoever needs one says so.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        found = [misfit(value, choice, where) for choice in inner]
        return None if None in found else found[0]
    if not _is_a(value, dict if is_typeddict(kind) else origin or kind):
        return f"{where} is {str(value)[:40]!r}"
    if is_typeddict(kind):
        if kind in WHOLE and (missing := sorted(kind.__required_keys__ - value.keys())):
            return f"{where} has no {missing[0]!r}"
        parts = [(key, value[key], hint) for key, hint in _hints(kind).items() if key in value]
    elif origin is dict:
        parts = [(key, part, inner[1]) for key, part in value.items()]
    else:
        parts = [(str(index), part, inner[0]) for index, part in enumerate(value)] if origin is list else []
    found = [misfit(part, hint, f"{where}.{key}".lstrip(".")) for key, part, hint in parts]
    return next((text for text in found if text), None)


def contradiction(record: Record) -> str | None:
    """Say what can't be true in a record of the right types, as in "metrics.test.value is 95.0"; None where all can.

    A hand that edits a record, or a program that does, forgets what else follows from the value.
    """
    of_run, asked = record["identity"], record["config"]
    measured: dict[str, Any] = {key: record.get(key, {}) for key in ("parameters", "time")}
    scores = record.get("metrics", {})
    found = [] if record["state"] in STATES else [f"state is {record['state']!r}"]
    found += [
        f"config.{key} is {asked[key]!r} and identity.{key} {of_run[key]!r}"
        for key in SAID_TWICE
        if key in of_run and key in asked and of_run[key] != asked[key]
    ]
    found += [f"{part}.{key} is {value}" for part in measured for key, value in measured[part].items() if value < 0]
    found += [
        f"metrics.{split}.value is {score['value']}"
        for split, score in scores.items()
        # Correlations are negative at times; what has another unit has a range of its own.
        if "value" in score and score.get("unit", "share") == "share" and abs(score["value"]) > 1 + ROUNDING
    ]
    found += [
        f"metrics.{split}.secondary.{wrong}"
        for split, score in scores.items()
        if "secondary" in score and (wrong := _impossible(score["secondary"], score.get("n")))
    ]
    return next(iter(found), None)


def _impossible(secondary: SecondaryScore, items: int | None) -> str | None:
    """What can't be true of a secondary score: a probability above 1, or more items than the split has."""
    sign = -1 if secondary["higher_is_better"] else 1
    if sign * secondary["value"] < -ROUNDING:
        return f"value is {secondary['value']}"
    return f"n is {secondary['n']}" if items is not None and secondary["n"] > items else None


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        # True is an int in Python; a column of a table holds 64 bits.
        limit = 2**63 if kind is int else 2**1000
        return isinstance(value, int | kind) and not isinstance(value, bool) and abs(value) < limit
    return kind is Any or isinstance(value, kind)


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
