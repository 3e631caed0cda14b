"""All figures of a folder's runs, one of each for every task and model."""

import re
from collections.abc import Callable
from pathlib import Path

from src.analysis.figures.cost import draw_memory_versus_accuracy, draw_parameters_versus_accuracy
from src.analysis.figures.learning_rates import draw_learning_rate_curves
from src.analysis.figures.style import Drawing, NothingToDrawError, save
from src.analysis.sweep import Sweep
from src.analysis.trials import trials

FIGURES: dict[str, Callable[[Sweep, str], Drawing]] = {
    "forest": lambda sweep, baseline: sweep.forest(baseline),
    "rank_curves": lambda sweep, _: sweep.rank_curves(),
    "parameters_versus_accuracy": lambda sweep, _: sweep.drawn(
        lambda: draw_parameters_versus_accuracy(sweep.scored_cells())
    ),
    "memory_versus_accuracy": lambda sweep, _: sweep.drawn(lambda: draw_memory_versus_accuracy(sweep.scored_cells())),
    "learning_rate_curves": lambda sweep, _: sweep.drawn(lambda: draw_learning_rate_curves(trials(sweep.records))),
    "learning_curves": lambda sweep, _: sweep.learning_curves(),
}


def save_all(sweep: Sweep, folder: Path, baseline: str = "") -> tuple[list[Path], list[str]]:
    """Draw every figure of every task and model as PNG and SVG into `folder`, which is made if it isn't there.

    Args:
        baseline: the cell of each task and model that the forest plot compares the others with; empty: the usual one.

    Returns:
        The files, and for each figure that wasn't drawn a line that says why.

    Raises:
        UserError: the baseline doesn't fit one cell of a task and model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, missing, parts = list[Path](), list[str](), sweep.parts()
    for part in parts:
        cell = part.cells.iloc[0]
        # A slash in a name would be a folder.
        suffix = "" if len(parts) == 1 else re.sub(r"[^\w.+-]", "_", f"-{cell['task']}-{cell['model']}")
        for name, draw in FIGURES.items():
            try:
                files += save(draw(part, baseline), folder / f"{name}{suffix}")
            except NothingToDrawError as why:
                missing.append(f"{name}{suffix}: {why}")
    return files, missing
