"""Count a method's parameters on a model that is never loaded: from overrides to ledgers, on the meta device."""

import copy
import json
from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

from src.config.composer import composer
from src.config.schema import AdaptedModel, CountConfig, model_config
from src.config.sweeps import single_job, sweep_jobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from src.adapters.ledger import Ledger


def count_configs(overrides: list[str], *, sweep: bool = False) -> list[CountConfig]:
    """Compose what the overrides ask to be counted, with `sweep` one config for each combination of their values.

    Raises:
        UserError: an override that doesn't exist or can't be.
    """
    with composer(CountConfig) as reader:
        jobs = sweep_jobs(reader, overrides) if sweep else [single_job(reader, overrides)]
        return [reader.config(job) for job in jobs]


def missing_axis(config: AdaptedModel, overrides: list[str]) -> str:
    """The axis of its method, rank or target, that the overrides leave open; empty where they fix both."""
    fixed = {override.partition("=")[0] for override in overrides}
    for axis, key in (("rank", "rank"), ("target", "target.roles")):
        if config.has_axis(axis) and key not in fixed:
            return axis
    return ""


def ledger_of(config: CountConfig, *, keep_model: bool = True) -> "Ledger":
    """The parameter ledger of a method on a model, from shapes alone.

    Args:
        keep_model: build the bare model once for all counts on it in a row; a single count needs no copy.

    Raises:
        UserError: the method can't be injected into this model.
    """
    from src.models.base_model import empty_model, import_modeling

    import_modeling()
    from src.adapters.ledger import count
    from src.running.assemble import inject_empty

    if keep_model:
        # A copy, because counting injects the method into the model.
        model = copy.deepcopy(_kept_model(json.dumps(asdict(config.model), sort_keys=True), config.num_labels))
    else:
        model = empty_model(config.model, num_labels=config.num_labels)
    return count(inject_empty(config, model))


@lru_cache(maxsize=1)
def _kept_model(config_json: str, num_labels: int) -> "PreTrainedModel":
    """The bare model, kept for the next count; by JSON, since a config can't be the key of a cache."""
    from src.models.base_model import empty_model

    return empty_model(model_config(json.loads(config_json)), num_labels=num_labels)


def layer_sum(config: CountConfig) -> str:
    """A linear method's count spelled out, as in "24 layers x (query 16,384 + value 16,384)"; empty for others."""
    from src.adapters.base import Adapter
    from src.running.assemble import method_of

    method = method_of(config)
    if not issubclass(method, Adapter):
        return ""
    parts: dict[int, list[str]] = {}
    for role in config.target_roles():
        size, depths = (
            config.model.roles[role],
            Counter(map(config.model.depth, config.model.roles[role].module.split(" | "))),
        )
        # One closed form for every matrix of the role; a role may stand in several stacks of the model.
        one = method.expected_trainable(size.in_features, size.out_features, config.rank)
        for depth, times in depths.items():
            parts.setdefault(depth, []).append(f"{role} {times} x {one:,}" if times > 1 else f"{role} {one:,}")
    return " + ".join(f"{depth} layers x ({' + '.join(terms)})" for depth, terms in parts.items())
