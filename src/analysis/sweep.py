"""A sweep as one object, to be asked in a notebook or a terminal: `sweep = load("results/nine_runs")`."""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from src.analysis.cell_names import Wanted, cell_names, find_cell
from src.analysis.collect import runs_in
from src.analysis.comparison import Comparison, compare
from src.analysis.differences import (
    Difference,
    difference_of,
    differences_to,
    higher_is_better,
    score_in_words,
    usual_baseline,
)
from src.analysis.doubtful import is_doubtful
from src.analysis.figures.forest import draw_forest
from src.analysis.figures.learning_curves import best_cells, draw_learning_curves
from src.analysis.figures.rank_curves import draw_rank_curves
from src.analysis.figures.style import Drawing, NothingToDrawError, drawing, entitle, metric_of
from src.analysis.formats import BOLD, markdown
from src.analysis.texts import footnotes, frame, intervals, legend, main_score_column, unfinished, unit_of, whole
from src.analysis.tidy import ReadTexts, curve_rows, disagreements, item_rows, run_rows
from src.errors import UserError, nearest_first

NO_MATH = "tex2jax_ignore mathjax_ignore"  # a dollar in a name is a dollar, in a notebook too


def load(results_dir: str | Path, texts: ReadTexts | None = None) -> "Sweep":
    """The sweep in a results folder.

    Args:
        results_dir: the folder that holds `runs`, such as "results/nine_runs".
        texts: reads what the items say, such as `src.studies.item_texts.item_texts`; without it items have no text.

    Raises:
        UserError: the folder holds no runs.
    """
    records = runs_in(Path(results_dir))
    return Sweep(Path(results_dir), records, compare(records), texts)


@dataclass(frozen=True, eq=False)
class Sweep:
    """All runs of a folder: what they are, how their cells compare, and pictures of it.

    A cell is what repeats but for the seed. It is named by what differs, such as "lora r8", by words of that which fit
    no other cell, or by its facts, such as `{"adapter": "lora", "rank": 8}`.

    `records` are the rows of `collect`, and `comparison` is that of them; the other attributes are made of these two.
    """

    folder: Path
    records: pd.DataFrame
    comparison: Comparison
    read_texts: ReadTexts | None = None

    @cached_property
    def names(self) -> list[str]:
        """The cells' names, in the order of the comparison."""
        return cell_names(self.comparison.cells)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The comparison's rows, each with its name in `cell`; scores and intervals are in the unit that it names."""
        return self.comparison.cells.assign(cell=self.names)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row a run; `src.analysis.tidy.RUNS` says what the columns hold."""
        return run_rows(self.records, self.comparison, self.names)

    @cached_property
    def items(self) -> pd.DataFrame:
        """A row a scored item of a run; `src.analysis.tidy.ITEMS` says what the columns hold."""
        return item_rows(self.runs, self.read_texts)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row a logged step of a run; `src.analysis.tidy.CURVES` says what the columns hold."""
        return curve_rows(self.runs, self.records)

    def cell(self, name: str = "", **facts: Any) -> pd.Series:
        """One row of `cells`: `sweep.cell("lora r8")`, or `sweep.cell(adapter="lora", rank=8)`.

        Raises:
            UserError: no cell fits, or several do.
        """
        return self.cells.iloc[self.index_of(name or facts)]

    def index_of(self, wanted: Wanted) -> int:
        """The place of a cell in the comparison.

        Raises:
            UserError: no cell fits, or several do.
        """
        return find_cell(self.comparison.cells, wanted)

    def only(self, **which: str) -> "Sweep":
        """The runs of one task or model: `sweep.only(task="sst2")`.

        Raises:
            UserError: there is no such task or model.
        """
        records, comparison = self.records, self.comparison
        for key, value in which.items():
            allowed = sorted(set(records[key])) if key in ("task", "model") else []
            if value not in allowed:
                shown = (
                    ", ".join(f"{key}={name}" for name in nearest_first(str(value), allowed)) or "task=..., model=..."
                )
                raise UserError(f"No runs have {key}={value}.\nAllowed: {shown}.")
            records = records[records[key] == value]
            comparison = comparison.where(comparison.cells[key] == value)  # cells are compared within task and model
        return replace(self, records=records.reset_index(drop=True), comparison=comparison)

    def parts(self) -> "list[Sweep]":
        """A sweep for each pair of task and model, in their order; itself where there is one."""
        pairs = list(dict.fromkeys(zip(self.records["task"], self.records["model"], strict=True)))
        return [self] if len(pairs) == 1 else [self.only(task=task, model=model) for task, model in sorted(pairs)]

    def test(self, first: Wanted, second: Wanted) -> Difference:
        """The paired test of two cells, which prints itself in words: the first's score minus the second's.

        Raises:
            UserError: a name doesn't fit one cell, or the two can't be compared; the message says why.
        """
        return difference_of(self.comparison, self.names, self.index_of(first), self.index_of(second))

    def differences(self, baseline: Wanted = "") -> pd.DataFrame:
        """The tests of all cells of a task and model against one of them, which the forest plot shows.

        Args:
            baseline: by default LoRA at its most common rank, else the first cell with the most seeds.

        Returns:
            What `src.analysis.differences.differences_to` gives.

        Raises:
            UserError: the baseline doesn't fit one cell, or none is named and the runs are of several tasks or models.
        """
        return differences_to(self.comparison, self.names, self.baseline(baseline))

    def baseline(self, wanted: Wanted = "") -> int:
        """The place of the cell that is named, or of the usual one to measure others against.

        Raises:
            UserError: no cell or several fit, or none is named and the runs are of several tasks or models.
        """
        if wanted:
            return self.index_of(wanted)
        self._check_single()
        return usual_baseline(self.comparison.cells)

    def forest(self, baseline: Wanted = "") -> Drawing:
        """Each cell's difference to a baseline, with its interval and what the test says.

        Args:
            baseline: by default LoRA at its most common rank, else the first cell with the most seeds.

        Raises:
            UserError: the baseline doesn't fit one cell, or nothing can be compared with it.
        """
        if self.cells["mean"].isna().all():
            raise NothingToDrawError("no run has a score")
        index = self.baseline(baseline)
        cell = self.cells.iloc[index]
        facts = {"score": score_in_words(cell), "unit": unit_of(cell)}
        better = higher_is_better(self.comparison.cells, index)
        return self.drawn(
            lambda: draw_forest(
                self.differences(self.names[index]), self.names[index], higher_is_better=better, **facts
            )
        )

    def rank_curves(self) -> Drawing:
        """The score over the rank, a panel a method.

        Raises:
            UserError: no scored run has a rank, or the runs are of several tasks or models.
        """
        self._check_single()
        return self.drawn(lambda: draw_rank_curves(self.scored_cells()))

    def learning_curves(self) -> Drawing:
        """The loss and the validation score over the steps, each method at its best rank.

        Raises:
            UserError: no run has a history, or the runs are of several tasks or models.
        """
        self._check_single()
        names = [self.names[index] for index in best_cells(self.scored_cells())]
        curves = self.curves[self.curves["cell"].isin(names)]
        validation, scale = metric_of(self.cells.assign(split="validation"))
        return self.drawn(lambda: draw_learning_curves(curves, validation, scale))

    def disagreements(self, first: Wanted, second: Wanted) -> pd.DataFrame:
        """The items on which two cells disagree, on the split that counts; see `src.analysis.tidy.disagreements`.

        Raises:
            UserError: a name doesn't fit one cell, or the two have no items in common.
        """
        left, right = self.cell(self.names[self.index_of(first)]), self.cell(self.names[self.index_of(second)])
        runs = self.runs[self.runs["cell"].isin([left["cell"], right["cell"]])]
        return disagreements(item_rows(runs, self.read_texts), left["cell"], right["cell"], left["split"])

    def scored_cells(self) -> pd.DataFrame:
        """The cells of the split that counts: of validation only where nothing was scored on test."""
        return self.cells[self.cells["split"] == self.cells["split"].min()]

    def drawn(self, draw: Callable[[], Drawing]) -> Drawing:
        """A figure of these runs with its title: the model, the task, and how many seeds are behind a point."""
        with drawing():
            figure = draw()
            entitle(figure, self._title())
        return figure

    def _title(self) -> str:
        cells = self.cells
        counts = sorted(set(cells.loc[cells["n"] > 0, "n"])) or [0]
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        doubtful = sum(is_doubtful(cell) for cell in cells.itertuples())
        also = f", doubtful points: {doubtful} (see the comparison)" if doubtful else ""
        return f"{cells['model'].iloc[0]} on {cells['task'].iloc[0]}, seeds a point: {seeds}{also}"

    def _check_single(self) -> None:
        """Refuse several tasks or models, which no figure can share."""
        for key in ("task", "model"):
            values = sorted(set(self.records[key]))
            if len(values) > 1:
                raise UserError(
                    f"These runs are of several {key}s: {', '.join(values)}.\n"
                    f"Choose one, as in sweep.only({key}={values[0]!r})."
                )

    def _summary(self) -> tuple[pd.DataFrame, list[str]]:
        """The comparison in short, as texts, and its notes."""
        cells = self.cells
        text = frame(
            {
                "cell": self.names,
                **dict([main_score_column(cells)]),
                **intervals(cells),
                "n": cells["n"].map(str),
                "trainable params (w/o head)": cells["body_trained"].map(whole),
                **unfinished(cells),
                **footnotes(cells)[0],
            }
        )
        return text, [*footnotes(cells)[1], *legend(cells, text)]

    def _heading(self) -> str:
        states = ", ".join(f"{number} {state}" for state, number in self.records["state"].value_counts().items())
        return f"{self.folder}: {states}; {len(self.cells)} cells"

    def __repr__(self) -> str:
        return f"{self._heading()}\n\n{markdown(*self._summary())}"

    def _repr_html_(self) -> str:
        text, notes = self._summary()
        escaped = text.map(_escaped).rename(columns=_escaped)
        table = escaped.to_html(index=False, escape=False, border=0, classes=NO_MATH)
        below = "".join(f"<p>{_escaped(note)}</p>" for note in notes)
        return f'<div class="{NO_MATH}"><p>{_escaped(self._heading())}</p>{table}{below}</div>'


def _escaped(text: object) -> str:
    """A text for a page, with Markdown's bold as that of HTML."""
    return re.sub(BOLD, r"<b>\1</b>", html.escape(str(text)))
