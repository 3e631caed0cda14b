"""How tables write their numbers: scores with spread, interval, ties and protocol; counts; what varies in a study."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from src.analysis.comparison import OF_CODE
from src.analysis.doubtful import MARK, is_doubtful

UNITS = {"validation": "validation_unit", "test": "unit"}
METRICS = {"validation": "validation_metric", "test": "metric"}
DIRECTIONS = {"validation": "validation_higher_is_better", "test": "higher_is_better"}
WAYS, ARROWS = {True: "higher", False: "lower"}, {True: "↑", False: "↓"}  # whether higher is better
PAPER = "‡"  # marks every number of protocol=paper


def is_missing(value: Any) -> bool:
    """Say whether there is no value."""
    return bool(pd.isna(value))


def whole(value: Any) -> str:
    """A count, with separators."""
    return "-" if is_missing(value) else f"{int(value):,}"


def number(value: Any) -> str:
    """A setting, as short as it can be written."""
    return "-" if is_missing(value) else f"{value:g}"


def word(value: Any) -> str:
    """A name, or a dash."""
    return "-" if is_missing(value) or value == "" else str(value)


def rounded(digits: int) -> Callable[[Any], str]:
    """Write numbers with so many decimals."""
    return lambda value: "-" if is_missing(value) else f"{value:,.{digits}f}"


def p_value(value: Any) -> str:
    """A p-value to three decimals."""
    return "-" if is_missing(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def rank(cell: Any) -> str:
    """A cell's rank, and of which one where one training gave several."""
    return whole(cell.rank) + ("" if is_missing(cell.trained_rank) else f" of {cell.trained_rank}")


def several(cells: pd.DataFrame) -> dict[str, list[str]]:
    """Columns for the task and the model, where the table holds several."""
    return {key: [word(value) for value in cells[key]] for key in ("task", "model") if cells[key].nunique() > 1}


def cell_columns(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The columns that say which cell a row is, without what it has in common with all others."""
    rows = list(cells.itertuples())
    columns = several(cells) | {"adapter": [row.adapter for row in rows], "rank": [rank(row) for row in rows]}
    columns |= {"target": [word(row.target) for row in rows], "lr": [number(row.lr) for row in rows]}
    return columns | ({"differs in": [word(row.differs) for row in rows]} if cells["differs"].any() else {})


def units(cells: pd.DataFrame, split: str) -> list[str]:
    """The unit of each cell's score on a split; share where nothing was scored."""
    return ["share" if is_missing(unit) else unit for unit in cells[UNITS[split]]]


def unit_of(cell: Any) -> str:
    """The unit of the score that counts in a cell."""
    unit = cell.unit if cell.split == "test" else cell.validation_unit
    return "share" if is_missing(unit) else str(unit)


def score_text(value: float, unit: str) -> str:
    """A score in its unit: shares in percent with one decimal, all else with three."""
    text = f"{100 * value:.1f}" if unit == "share" else f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0.0"


def mean_and_std(mean: Any, std: Any, unit: str) -> str:
    """Mean and standard deviation, where there are some."""
    if is_missing(mean):
        return "-"
    return score_text(mean, unit) + ("" if is_missing(std) else f" ± {score_text(std, unit)}")


def marked(text: str, cell: Any, *, bold: bool) -> str:
    """Make a score bold where its cell can't be told from the best; mark a paper's protocol, and a doubtful score."""
    if text == "-":
        return text
    text = f"**{text}**" if bold and cell.tie else text
    text = f"{text} {MARK}" if is_doubtful(cell) else text
    return f"{text} {PAPER}" if cell.protocol == "paper" else text


def heading(cells: pd.DataFrame, split: str) -> str:
    """What a split's scores are, as in "test accuracy % ↑": the metric where it is one, and the way that is better."""
    scored = cells[cells[METRICS[split]].notna()]
    metrics, ways = scored[METRICS[split]].unique(), scored[DIRECTIONS[split]].unique()
    parts = [split] + ([word(metrics[0]).replace("_", " ")] if len(metrics) == 1 else [])
    parts += ["%"] if set(units(cells, split)) <= {"share"} else []
    return " ".join(parts + ([ARROWS[bool(ways[0])]] if len(ways) == 1 else []))


def score_column(cells: pd.DataFrame, split: str) -> tuple[str, list[str]]:
    """A split's column: its heading, and mean ± standard deviation; in percent where all of them are shares."""
    texts, all_shares = [], set(units(cells, split)) <= {"share"}
    for cell, unit in zip(cells.itertuples(), units(cells, split), strict=True):
        text = mean_and_std(getattr(cell, f"{split}_mean"), getattr(cell, f"{split}_std"), unit)
        # Beside scores in other units each share says that it is in percent; else the heading says so once.
        text = f"{text} %" if text != "-" and unit == "share" and not all_shares else text
        texts.append(marked(text, cell, bold=split == cell.split))
    return heading(cells, split), texts


def main_split(cells: pd.DataFrame) -> str:
    """The split of the scores that count: test, or validation where no cell has a test score."""
    # One column is one split: beside test scores, those of cells with validation alone would mislead.
    return "test" if (cells["split"] == "test").any() else "validation"


def main_score_column(cells: pd.DataFrame) -> tuple[str, list[str]]:
    """The column of the score that counts."""
    return score_column(cells, main_split(cells))


def intervals(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The column of the 95 % intervals of the scores that count, where there are any."""
    if cells["low"].isna().all():
        return {}
    texts = []
    for cell in cells.itertuples():
        ends = [] if is_missing(cell.low) else [score_text(end, unit_of(cell)) for end in (cell.low, cell.high)]
        texts.append(marked(" to ".join(ends) or "-", cell, bold=False))
    return {"95 % interval": texts}


def tuning_regrets(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The column of what choosing the learning rate may have cost, where it is known of a cell."""
    if cells["tuning_regret"].isna().all():
        return {}
    regrets = zip(cells["tuning_regret"], cells.itertuples(), strict=True)
    return {
        "tuning regret": ["-" if is_missing(value) else score_text(value, unit_of(cell)) for value, cell in regrets]
    }


def secondary_columns(cells: pd.DataFrame) -> dict[str, list[str]]:
    """A column for each secondary outcome that there is: mean ± standard deviation, and its 95 % interval."""
    kinds = cells[cells["secondary"].notna()].drop_duplicates("secondary")
    return {
        _secondary_heading(kind): [_secondary_text(cell, kind.secondary) for cell in cells.itertuples()]
        for kind in kinds.itertuples()
    }


def _secondary_heading(cell: Any) -> str:
    """What a cell's secondary outcome is, in what unit, and which way is better."""
    name = cell.secondary.replace("_", " ")
    unit = "" if name == cell.secondary_unit else f", {cell.secondary_unit}"
    return f"{name}{unit} ({WAYS[cell.secondary_higher_is_better]} is better)"


def _secondary_text(cell: Any, name: str) -> str:
    if cell.secondary != name:
        return "-"
    text = mean_and_std(cell.secondary_mean, cell.secondary_std, cell.secondary_unit)
    ends = [score_text(end, cell.secondary_unit) for end in (cell.secondary_low, cell.secondary_high)]
    return marked(text if is_missing(cell.secondary_low) else f"{text} ({ends[0]} to {ends[1]})", cell, bold=False)


def difference(tested: Any, unit: str) -> str:
    """A difference of two scores with its interval; shares in percentage points."""
    if tested is None:
        return "-"
    middle, low, high = (score_text(value, unit) for value in (tested.difference, tested.low, tested.high))
    return f"{'' if middle.startswith('-') else '+'}{middle} ({low} to {high})"


def unfinished(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The column of runs that didn't finish, with their reasons, where there are any."""
    if not cells["failed"].any():
        return {}
    return {"not finished": [word(reason.replace("\n", " ")) for reason in cells["reason"]]}


def footnotes(cells: pd.DataFrame) -> tuple[dict[str, list[str]], list[str]]:
    """The column of references to footnotes, where a cell has any, and the footnotes."""
    numbers: dict[str, int] = {}
    references = []
    for text in cells["notes"]:
        parts = [part for part in str(text).split("; ") if part]
        # A note that several cells share has one number, that of its first mention.
        references.append(", ".join(str(numbers.setdefault(part, len(numbers) + 1)) for part in parts) or "-")
    return ({"note": references} if numbers else {}), [f"{index}: {part}" for part, index in numbers.items()]


def legend(cells: pd.DataFrame, texts: pd.DataFrame) -> list[str]:
    """What the marks in a table's texts mean, those that are there."""
    # Only marks that occur are explained.
    shown = " ".join(str(text) for name in texts for text in texts[name])
    meanings = [
        (
            "**",
            "Bold: can't be told from the best of its task and model; all that are best are bold with 95 %.",
        ),
        (PAPER, f"{PAPER} protocol=paper: trained on all data and validated on the test split, as many papers do."),
    ]
    notes = [meaning for mark, meaning in meanings if mark in shown]
    arrows = {arrow: f"{arrow} {WAYS[way]} is better" for way, arrow in ARROWS.items()}
    if used := [meaning for arrow, meaning in arrows.items() if any(arrow in str(name) for name in texts)]:
        notes.append(f"{', '.join(used)}.")
    if (cells["n"] == 1).any() and "95 % interval" in texts:
        notes.append(
            "Where n is 1 there is no spread over seeds, the interval is over items alone and nothing is bold."
        )
    if "tuning regret" in texts:
        notes.append("Tuning regret: how much better another tried rate is expected to be; no part of the interval.")
    if cells["notes"].str.contains("|".join(OF_CODE)).any():
        notes.append("Rows of different code: python -m src.verify RUN says whether a run comes out the same today.")
    return notes


def scored_by(cells: pd.DataFrame) -> dict[str, list[str]]:
    """Columns that name the metrics, where the table holds several."""
    if len({name for key in METRICS.values() for name in cells[key].dropna()}) <= 1:
        return {}
    return {
        f"{split} by": ["-" if is_missing(name) else f"{name} {ARROWS[bool(way)]}"
                        for name, way in zip(cells[METRICS[split]], cells[DIRECTIONS[split]], strict=True)]
        for split in METRICS
    }  # fmt: skip


def frame(columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    """Columns as a frame of texts, of the type that pandas leaves as it is."""
    return pd.DataFrame({name: list(values) for name, values in columns.items()}, dtype=object)
