"""What a sweep can tell before it is run: the smallest difference that its seeds and items find, and which claims ask
for less.

How noisy differences are is known from the records of similar runs, of the same task and model, or else is the binomial
noise of as many answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from src.analysis.collect import collect
from src.analysis.comparison import SEEDS_FOR_A_VERDICT, Comparison, uncompared
from src.analysis.differences import usual_baseline
from src.analysis.error_model import Components
from src.analysis.power import Question, binomial_noise, noise_of, seeds_needed
from src.analysis.statistics import LEVEL
from src.analysis.texts import unit_of
from src.config.schema import Config
from src.studies.claim_tests import design_of, pair_of
from src.studies.claims import EQUAL, Claim, claims
from src.studies.item_texts import scored_rows
from src.tasks.base import load_task

# Metrics that are the share of right items.
RIGHT_OR_WRONG = ("accuracy", "choice", "exact_match", "last_number", "logical_form", "math_equivalence", "math_verify",
                  "metamath")  # fmt: skip
GUESSED_ACCURACY = 0.5  # where nothing is known: the noisiest


@dataclass(frozen=True)
class Basis:
    """From what a sweep's noise is predicted: the usual pair's, that of single pairs, and in words where it is from."""

    components: Components
    unit: str
    words: str
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Part:
    """The runs of a sweep that are of one task and model, and what is known of their noise, if anything."""

    task: str
    model: str
    seeds: int
    items: int
    cells: int
    basis: Basis | None

    @property
    def can_be_tested(self) -> bool:
        """Whether there are enough seeds for a verdict, and something is known of the noise."""
        return self.basis is not None and self.seeds >= SEEDS_FOR_A_VERDICT

    def smallest(self, components: Components, question: Question) -> float:
        """The smallest difference that is found with a power of 80 %."""
        return question.smallest(noise_of(components, self.seeds, self.items, self.cells))


def parts_of(configs: Sequence[Config]) -> list[Part]:
    """A sweep's parts, in the order of the sweep.

    Raises:
        UserError: a task's data can't be had.
    """
    groups: dict[tuple[str, str], list[Config]] = {}
    for config in configs:
        groups.setdefault((config.task.name, config.model.name), []).append(config)
    return [_part(of_part) for of_part in groups.values()]


def _part(configs: list[Config]) -> Part:
    first = configs[0]
    items = _scored_items(first)
    basis = _of_similar_runs(first) or _binomial(first, items)
    cells = len({repr(replace(config, seed=0)) for config in configs})
    return Part(first.task.name, first.model.name, len({config.seed for config in configs}), items, cells, basis)


def _scored_items(config: Config) -> int:
    """How many items a run scores, on test or else on validation."""
    split = "test" if config.trainer.score_test else "validation"
    return len(scored_rows(load_task(config).data.splits[split], config.trainer.eval_limit))


def _binomial(config: Config, items: int) -> Basis | None:
    """The noise of answers alone; None for a metric that isn't the share of right ones."""
    if config.task.metric not in RIGHT_OR_WRONG:
        return None
    words = f"if answers are independent and half of {items:,} right, as there are no similar runs yet"
    return Basis(binomial_noise(GUESSED_ACCURACY), "share", words)


def _of_similar_runs(config: Config) -> Basis | None:
    """The noise of runs of the same task and model, the nearest folder first; None where no two cells can be paired."""
    for folder in folders_of(config):
        runs = collect(folder)
        runs = runs[(runs["task"] == config.task.name) & (runs["model"] == config.model.name)].reset_index(drop=True)
        if runs.empty:
            continue
        comparison = uncompared(runs)
        if usual := _usual_components(comparison):
            words = f"as {len(comparison.cells)} cells in {folder} vary"
            return Basis(usual, unit_of(comparison.cells.iloc[0]), words, comparison)
    return None


def folders_of(config: Config) -> Iterator[Path]:
    """Results folders with runs of the same task and model: the config's, those in it, those beside it."""
    own = Path(config.results_dir)
    beside = sorted(path for parent in (own, own.parent) if parent.is_dir() for path in parent.iterdir())
    for folder in dict.fromkeys([own, *beside]):
        if (folder / "runs" / config.task.name / config.model.name).is_dir():
            yield folder


def _usual_components(comparison: Comparison) -> Components | None:
    """The variances of the middle one of the pairs with the usual baseline, by their standard errors."""
    if comparison.cells["mean"].isna().all():
        return None
    baseline = usual_baseline(comparison.cells)
    others = [index for index in range(len(comparison.cells)) if index != baseline]
    designs = [design for index in others if (design := design_of(comparison, (index, baseline)))]
    errors = [design.components.standard_error(design.seeds, design.items) for design in designs]
    # Cells that answer every item alike say nothing of how others differ.
    by_error = sorted((error, index) for index, error in enumerate(errors) if error > 0)
    return designs[by_error[len(by_error) // 2][1]].components if by_error else None


def undetectable(part: Part, study_claims: Sequence[Claim]) -> list[str]:
    """The claims that state less than the sweep can find, each with what it can."""
    if not part.can_be_tested or part.basis is None:
        return []
    told = []
    for claim in study_claims:
        of_kind = sum((other.expected == EQUAL) == (claim.expected == EQUAL) for other in study_claims)
        question = Question(claim.expected == EQUAL, LEVEL / of_kind)
        components = _components_of(claim, part.basis)
        smallest = part.smallest(components, question)
        if 0 < claim.size < smallest:
            needed = seeds_needed(question, claim.size, components, part.items, cells=part.cells, above=part.seeds)
            stated = f"{'within' if claim.expected == EQUAL else 'by'} {_amount(claim.size, part.basis.unit)}"
            told.append(
                f"'{claim.claim}' ({stated}; found from {_amount(smallest, part.basis.unit)}, {_seeds(needed)})"
            )
    return told


def _components_of(claim: Claim, basis: Basis) -> Components:
    """The variances of the claim's own pair where there are runs of it, else of the usual pair."""
    design = pair_of(claim, basis.comparison).design if basis.comparison else None
    return design.components if design else basis.components


def _seeds(needed: int | None) -> str:
    """How many seeds it takes, in words."""
    return f"needs {needed} seeds" if needed else "no number of seeds on these items finds it"


def _amount(difference: float, unit: str) -> str:
    """A difference in its unit, as in "1.24 points"."""
    return f"{100 * difference:.2f} points" if unit == "share" else f"{difference:.3g} {unit}"


def told_before(configs: Sequence[Config], study: str) -> list[str]:
    """What a sweep's start says of its study's claims: a line where some state less than can be found."""
    study_claims = [claim for claim in claims(study) if claim.size] if study else []
    if not study_claims:
        return []
    found = [text for part in parts_of(configs) for text in undetectable(part, claims(study))]
    return [f"warning: fewer seeds or items than {len(found)} claims need: {'; '.join(found)}"] if found else []


def plan_lines(configs: Sequence[Config], study: str, detect: float = 0.0) -> list[str]:
    """What a sweep can find with its seeds and items, and which claims of its study ask for less.

    Args:
        study: the experiment's name, empty where there is none.
        detect: a difference in the metric's unit, for which the seeds are counted; 0: none.

    Raises:
        UserError: a task's data can't be had, or the study's claims are written wrongly.
    """
    lines = []
    for part in parts_of(configs):
        lines += _of_part(part, detect)
        lines += [
            f"warning: a claim states less: {text}" for text in undetectable(part, claims(study) if study else [])
        ]
    return lines


def _of_part(part: Part, detect: float) -> list[str]:
    """What one task and model can tell."""
    start = f"{part.task}, {part.model}: {part.seeds} seeds x {part.items:,} items"
    basis = part.basis
    if basis is None:
        return [f"{start}: what they can find isn't known before there are runs of this metric"]
    lines = []
    if part.seeds < SEEDS_FOR_A_VERDICT:
        lines.append(f"{start} have no verdict: {SEEDS_FOR_A_VERDICT} seeds are the fewest")
    else:
        noise = noise_of(basis.components, part.seeds, part.items, part.cells)
        lines.append(
            f"{start} find a difference of {_amount(Question().smallest(noise), basis.unit)} in 80 % of cases "
            f"(two-sided 5 %), equality within {_amount(Question(is_equality=True).smallest(noise), basis.unit)}"
        )
    endless = Question().smallest(noise_of(basis.components, inf, part.items))
    at_most = f"any number of seeds on these items: {_amount(endless, basis.unit)}; " if endless > 0 else ""
    lines.append(f"  {at_most}{basis.words}")
    if detect:
        needed = seeds_needed(Question(), detect, basis.components, part.items, cells=part.cells)
        lines.append(f"  a difference of {_amount(detect, basis.unit)}: {_seeds(needed)}")
    return lines
