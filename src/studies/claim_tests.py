"""The tests of a study's claims: each claim's two cells, what keeps them from being tested, and Holm's correction.

p-values are corrected within a kind, "greater" or "equal", over the claims that could be tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.analysis.comparison import SEEDS_FOR_A_VERDICT, Comparison
from src.analysis.statistics import LEVEL, Estimate, PairedTest, holm
from src.studies.claims import EQUAL, Claim, Match, cells_of, selector_text
from src.studies.looks import widening
from src.studies.verdicts import NOT_COMPARABLE, NOT_RUN, TOO_FEW, Design, Verdict, holm_levels, p_of, turned

DATA = ("split", "metric", "protocol", "data", "number of items")  # what `CellScores.data` says


@dataclass(frozen=True)
class Pair:
    """A claim and the cells of the runs that it is about; `test` is None where they can't be tested."""

    claim: Claim
    comparison: Comparison
    left: Match
    right: Match
    test: PairedTest | None

    @property
    def indices(self) -> tuple[int, int] | None:
        """The two cells; None where one wasn't run, or several fit."""
        fits = self.left.indices, self.right.indices
        return (fits[0][0], fits[1][0]) if len(fits[0]) == len(fits[1]) == 1 else None

    @property
    def difference(self) -> Estimate | None:
        """Their difference, above 0 where the left cell is better."""
        if self.test is None or self.indices is None:
            return None
        better = bool(self.comparison.cells["higher_is_better"][self.indices[0]])
        return turned(self.test.estimate, higher_is_better=better)

    @property
    def design(self) -> Design | None:
        """What their difference is made of, as `design_of` gives it."""
        return design_of(self.comparison, self.indices) if self.indices else None


def pair_of(claim: Claim, comparison: Comparison) -> Pair:
    """The two cells of a claim, and their test."""
    left, right = cells_of(comparison.cells, claim.left), cells_of(comparison.cells, claim.right)
    pair = Pair(claim, comparison, left, right, None)
    if pair.indices is None:
        return pair
    return Pair(claim, comparison, left, right, comparison.test(*pair.indices))


def obstacle(pair: Pair) -> Verdict | None:
    """Why a claim can't be tested by these runs, None where it can."""
    sides = {"left": (pair.left, pair.claim.left), "right": (pair.right, pair.claim.right)}
    missing = [selector_text(selector) for match, selector in sides.values() if not match.indices]
    if missing:
        return Verdict(NOT_RUN, f"no finished run: {' and '.join(missing)}")
    several = [f"{selector_text(selector)} fits {len(match.indices)} cells, which differ in {match.differing}"
               for match, selector in sides.values() if len(match.indices) > 1]  # fmt: skip
    if several or pair.indices is None:
        return Verdict(NOT_COMPARABLE, "; ".join(several))
    if why := _other_data(pair.comparison, pair.indices):
        return Verdict(NOT_COMPARABLE, why)
    seeds = [int(pair.comparison.cells["n"][index]) for index in pair.indices]
    if min(seeds) < SEEDS_FOR_A_VERDICT:
        return Verdict(TOO_FEW, f"{min(seeds)} of {SEEDS_FOR_A_VERDICT}")
    return None if pair.test else Verdict(NOT_COMPARABLE, "all seeds differ by the same, which says nothing of noise")


def _other_data(comparison: Comparison, indices: tuple[int, int]) -> str:
    """What of their data keeps two cells from being compared; empty where nothing does."""
    cells, (first, second) = comparison.cells.iloc[list(indices)], (comparison.primary.scores[i] for i in indices)
    if first is None or second is None:
        return "one of them has no score"
    differing = [key for key in ("task", "model") if cells[key].nunique() > 1]
    if isinstance(first.data, tuple) and isinstance(second.data, tuple) and first.data != second.data:
        differing += [name for name, *values in zip(DATA, first.data, second.data, strict=True) if len(set(values)) > 1]
    return f"other {' and '.join(differing)}" if differing else ""


def design_of(comparison: Comparison, indices: tuple[int, int]) -> Design | None:
    """What the difference of two cells is made of; None where they don't share two seeds and their items."""
    first, second = (comparison.primary.places[index] for index in indices)
    if first is None or second is None or first[0] is not second[0]:
        return None
    model = first[0]
    components = model.components(first[1], second[1])
    cells = [model.cells[place[1]] for place in (first, second)]
    seeds = len(set(cells[0].seeds) & set(cells[1].seeds))
    alike = sum(cell.items == cells[0].items for cell in model.cells)
    return Design(components, seeds, cells[0].items[0], alike) if components else None


@dataclass(frozen=True)
class Corrected:
    """A claim's p-value, the corrected one, the level it is tested at, and the strictest level of its kind."""

    p: float
    holm: float
    level: float
    strictest: float


@dataclass(frozen=True)
class ClaimTest:
    """A claim's test: its pair of cells, and the p-value that the verdict goes by, None where there is none.

    `look` is the place in `STAGES` of the look that it was made at, None where it is the only test.
    """

    pair: Pair
    look: int | None = None
    corrected: Corrected | None = None

    @property
    def widening(self) -> float:
        """How many times as far as in a single test a difference must lie."""
        return widening(self.pair.claim, self.look)


def p_at(pair: Pair, look: int | None) -> float | None:
    """The p-value of a claim at a look; None where it can't be tested."""
    estimate = None if obstacle(pair) else pair.difference
    return None if estimate is None else p_of(pair.claim, estimate, widening(pair.claim, look))


def tested_once(claims: Sequence[Claim], comparison: Comparison) -> list[ClaimTest]:
    """The tests of all claims by the runs as they are."""
    pairs = [pair_of(claim, comparison) for claim in claims]
    p_values = {index: p for index, pair in enumerate(pairs) if (p := p_at(pair, None)) is not None}
    corrected = corrected_by_kind(claims, p_values)
    return [ClaimTest(pair, corrected=corrected.get(index)) for index, pair in enumerate(pairs)]


def corrected_by_kind(claims: Sequence[Claim], p_values: Mapping[int, float]) -> dict[int, Corrected]:
    """Holm's correction over the claims of each kind.

    Args:
        p_values: those of the claims that take part, by their places.
    """
    by_claim: dict[int, Corrected] = {}
    for is_equality in (False, True):
        of_kind = {index: p for index, p in p_values.items() if (claims[index].expected == EQUAL) == is_equality}
        values = list(of_kind.values())
        for index, p, corrected, level in zip(of_kind, values, holm(values), holm_levels(values), strict=True):
            by_claim[index] = Corrected(p, corrected, level, LEVEL / len(values))
    return by_claim
