"""How a run's rate was chosen, in words: the column "tuning", and what differs from the other rows' tuning."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

SOUND, BROKEN, FAILED = "sound", "broken", "failed"


def outcome_of(trial: Mapping[str, Any]) -> str:
    """What became of a trial: sound, broken by its rate, or failed for another reason, which says nothing of the rate.

    Args:
        trial: as records store it, with state, validation and perhaps flags.
    """
    if trial["state"] == "diverged" or trial.get("flags"):
        return BROKEN
    return SOUND if trial["state"] == "done" and trial["validation"] is not None else FAILED


def by_rate(trials: Sequence[Mapping[str, Any]]) -> dict[float, list[Mapping[str, Any]]]:
    """The trials of each rate, in the order of the rates."""
    rates: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
    for trial in trials:
        rates[trial["value"]].append(trial)
    return dict(sorted(rates.items()))


def outcome_of_rate(trials: Sequence[Mapping[str, Any]]) -> str:
    """What became of a rate's trials together: one that broke is enough."""
    kinds = {outcome_of(trial) for trial in trials}
    return next(kind for kind in (BROKEN, SOUND, FAILED) if kind in kinds)


def tuning_text(run: Mapping[str, Any]) -> str:
    """How a run's rate was chosen, as in "7 trials, 1 broken, 2 seeds, best at edge", or "untuned".

    Counted are rates: the sound ones first, as "5 of 7" where more were asked for, then those that broke or failed.
    """
    if run["trial"]:
        return "trial"
    tuning = run["tuning"]
    if not tuning:
        return "untuned"
    kinds = [outcome_of_rate(trials) for trials in by_rate(tuning["trials"]).values()]
    useful, wanted = kinds.count(SOUND), tuning.get("wanted", 0)
    parts = [f"{useful} of {wanted} trials" if useful < wanted else f"{useful} trials"]
    parts += [f"{kinds.count(kind)} {kind}" for kind in (BROKEN, FAILED) if kind in kinds]
    seeds = len(seeds_of_trials(run))
    parts += [f"{seeds} seeds"] if seeds > 1 else []
    parts += ["best at edge"] if tuning["at_edge"] else []
    parts += ["beside a broken one"] if tuning.get("beside_broken") else []
    return ", ".join(parts)


def seeds_of_trials(run: Mapping[str, Any]) -> set[int]:
    """The seeds of the trials that chose the run's rate; empty where none are stored."""
    tuning = run["tuning"] or {}
    seeds = {trial.get("seed", tuning.get("seed")) for trial in tuning.get("trials", [])}
    return {seed for seed in seeds if seed is not None}


def tuning_budget(run: Mapping[str, Any]) -> str | None:
    """With what the run's rate was chosen, to be the same in all rows of a comparison; None where it wasn't tuned."""
    if not run["tuning"] or run["trial"]:
        return None
    asked, seeds = run["tuning"].get("wanted"), len(seeds_of_trials(run))
    return f"{seeds} seed{'s' if seeds != 1 else ''}" + (f" and {asked} sound rates" if asked else "")


def tuning_regret(run: Mapping[str, Any]) -> float | None:
    """What a better rate among those tried would add to the run's score, as expected; None where it isn't known.

    It is in the unit of the validation score, so that it is none of a test score by another metric.
    """
    if run["test"] is not None and run["metric"] != run["validation_metric"]:
        return None
    noise = (run["tuning"] or {}).get("noise") or {}
    regret: float | None = noise.get("regret")
    return regret


def seeds_that_chose(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which runs of a cell have a seed that chose the cell's rate."""
    tried = {seed for run in runs for seed in seeds_of_trials(run)}
    both = sorted(tried & {run["seed"] for run in runs if not run["trial"]})
    return [f"seed {seed} also chose the learning rate" for seed in both]
