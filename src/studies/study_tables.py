"""All tables of a results folder: those of any runs, and those that only a study has, whose name the folder bears."""

from dataclasses import replace
from functools import partial

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.doubtful import doubtful_rows
from src.analysis.formats import Table
from src.analysis.older_rows import older_rows
from src.analysis.tables import TABLES, MakeTable
from src.quiet import quiet_libraries
from src.studies.claims_table import claims_table, readable_claims
from src.studies.counting import count_configs, layer_sum, ledger_of, missing_axis
from src.studies.paper_tables import paper_table, readable_paper_table
from src.studies.parameter_counts import Counted

CLAIMS, PAPER = "claims", "paper"
NOTE = (
    "On this model and data. p is corrected (Holm) over the claims of a kind, greater or equal. The interval leaves "
    "out 0, or lies within or beyond the margin, exactly where p is below 0.05. Detectable is the smallest difference, "
    "or margin of equality, that is found in 80 % of cases with such noise at the strictest level of the correction."
)
LOOKS = (
    "Seeds were added until claims were decided: each stands at the look that settled it, or at its last one, with "
    "the seeds of that look alone. p and the interval are those of one look of several, which asks for more than a "
    "single test."
)


def tables_of(study: str) -> dict[str, MakeTable]:
    """Every table by its name; the claims and the paper's table are empty where the study has none."""
    return {**TABLES, CLAIMS: partial(_claims, study), PAPER: partial(_paper, study)}


def made_tables(study: str, runs: pd.DataFrame, comparison: Comparison, only: str = "") -> dict[str, Table]:
    """The tables of a results folder that have content, or the one that is named.

    All of them say which rows are doubtful, and which are on older rows of their task.
    """
    made = {name: draw(runs, comparison) for name, draw in tables_of(study).items() if only in ("", name)}
    # A note in every table: tables are read one at a time, and copied.
    notes = [*doubtful_rows(comparison.cells), *older_rows(runs)]
    return {name: replace(table, notes=[*table.notes, *notes]) for name, table in made.items() if table is not None}


def counted(overrides: list[str]) -> Counted:
    """Count what a reported configuration fixes; an axis of its method that isn't among the overrides is missing."""
    (config,) = count_configs(overrides)
    missing = missing_axis(config, overrides)
    if missing:
        return Counted(None, missing=missing)
    return Counted(ledger_of(config), sum=layer_sum(config))


def _claims(study: str, runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """The study's claims with their verdicts, None where it has no claims."""
    table = claims_table(study, runs, comparison)
    if table.empty:
        return None
    notes = [NOTE, *([LOOKS] if comparison.cells["look_seeds"].notna().any() else [])]
    return Table(readable_claims(table), table, notes)


def _paper(study: str, runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """`study_paper_table` with the signature that all tables have."""
    return study_paper_table(study, runs, comparison.cells)


def study_paper_table(study: str, runs: pd.DataFrame, cells: pd.DataFrame) -> Table | None:
    """The paper's numbers beside the study's, None where it has no paper; runs and cells may be empty."""
    quiet_libraries()
    table = paper_table(study, cells, runs, counted)
    return None if table.empty else Table(readable_paper_table(table), table, ["† reported by the source."])
