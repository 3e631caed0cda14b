"""What makes a finished run's score doubtful: it stays a result, and is marked wherever it is shown.

Each rule leaves room for chance, so that few items or steps say nothing rather than too much. docs/statistics.md has
them in words.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from scipy.stats import binom, t

from src.config.checks import LOSS
from src.metrics.choice.choice import kind_of
from src.training.scoring import Scored

CONSTANT, AT_CHANCE, LOSS_ROSE, UNDEFINED = "constant predictions", "at chance", "loss rose", "undefined metric"
LEVEL = 0.05
FEWEST_LOSSES = 4  # below, the noise of a loss isn't known


def flags(scored: Scored, history: Sequence[dict[str, float]]) -> dict[str, str]:
    """What is doubtful of a run, by its kind, with what was found.

    Args:
        scored: the split that counts.
        history: the points of training.
    """
    found = {LOSS_ROSE: loss_rose([point["loss"] for point in history if "loss" in point])}
    # The loss of the right answers is no prediction.
    if scored.score.name != LOSS:
        found = {CONSTANT: _constant(scored), AT_CHANCE: _at_chance(scored)} | found
    if scored.undefined:
        found[UNDEFINED] = f"{', '.join(scored.undefined)}, which can't be computed of these predictions, counts as 0"
    return {kind: text for kind, text in found.items() if text}


def _constant(scored: Scored) -> str | None:
    """Whether all predictions are the same, which answers drawn at the references' shares would hardly be."""
    answers = {repr(prediction) for prediction in scored.predictions}
    references = Counter(map(repr, scored.references))
    items = references.total()
    if len(answers) > 1 or len(references) < 2 or (max(references.values()) / items) ** items >= LEVEL:
        return None
    return f"all {items} are {answers.pop()[:40]}, of {len(references)} different references"


def _at_chance(scored: Scored) -> str | None:
    """Whether the hits are no more than those of one answer to all, by the exact binomial test.

    That is said only of so many items that the test would hardly miss a model halfway between chance and all right.
    """
    hits, chance = _hits(scored), _best_constant(scored.references, scored.score.name)
    items = len(scored.references)
    if hits is None or chance in (0, items):
        return None
    share = chance / items
    needed = int(binom.isf(LEVEL, items, share)) + 1  # the fewest hits that are significantly more
    if hits >= needed or binom.sf(needed - 1, items, (1 + share) / 2) < 1 - LEVEL:
        return None
    return f"{hits} of {items} are right, and {chance} with the most common answer alone"


def _hits(scored: Scored) -> int | None:
    """How many predictions are right, where items have one of a few answers."""
    if scored.score.name == "choice":
        return round(sum(scored.score.items))
    if not all(isinstance(prediction, int) for prediction in scored.predictions):
        return None
    return sum(bool(answer == right) for answer, right in zip(scored.predictions, scored.references, strict=True))


def _best_constant(references: Sequence[Any], metric: str) -> int:
    """How many items are right if all of a kind have the kind's most common answer."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for reference in references:
        # The sets of the commonsense tasks have choices of their own.
        kinds[kind_of(reference).pattern if metric == "choice" else ""][repr(reference)] += 1
    return sum(max(answers.values()) for answers in kinds.values())


def loss_rose(losses: Sequence[float]) -> str | None:
    """Whether the losses of the last tenth are above those of the first tenth, by a one-sided t-test.

    Their logarithms are compared, as a loss that explodes does so by factors. The noise is that of successive losses
    (von Neumann 1941): variance = mean((x[i+1] - x[i])^2) / 2, in which a slow trend has no part.
    """
    count = len(losses)
    if count < FEWEST_LOSSES:
        return None
    logs, tenth = [math.log(max(loss, 1e-12)) for loss in losses], max(1, count // 10)
    rise = fmean(logs[-tenth:]) - fmean(logs[:tenth])
    variance = fmean((after - before) ** 2 for before, after in pairwise(logs)) / 2
    # Of the difference of two means over a tenth each.
    if rise <= t.isf(LEVEL, count - 1) * math.sqrt(2 * variance / tenth):
        return None
    first, last = (fmean(part) for part in (losses[:tenth], losses[-tenth:]))
    return f"the training loss was {first:.3g} at first and {last:.3g} at last"
