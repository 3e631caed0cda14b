"""The forest plot: each cell's difference to a baseline with its interval, colored by what the test says of it."""

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from src.analysis.comparison import SEEDS_FOR_A_VERDICT
from src.analysis.differences import BETTER, OPEN, WORSE, unit_in_words
from src.analysis.figures.style import LINE, Drawing, Look, NothingToDrawError, below, finish, panels

VERDICT_LOOKS: dict[str, Look] = {
    BETTER: {"color": "#0072B2", "marker": "o", "markerfacecolor": "#0072B2"},
    OPEN: {"color": "#8A8A8A", "marker": "D", "markerfacecolor": "white"},
    WORSE: {"color": "#D55E00", "marker": "s", "markerfacecolor": "#D55E00"},
}
ROW = 0.15  # inches, for each line of a name
FRAME = 0.6  # inches, for the title and the axis below
NAME_CHARACTERS = 26  # of a name in a line
LABEL = 44  # characters of the axis's label in a line
REACH = 3.0  # times as large as the middle one may a difference be where the axis is cut
FAR = 3.0  # times as long as what most need must an axis be to be cut


def draw_forest(differences: pd.DataFrame, baseline: str, score: str, unit: str, *, higher_is_better: bool) -> Drawing:
    """Draw a row for each cell, the best on top.

    Args:
        differences: what `differences_to` gives.
        baseline: the name of the cell that the others are compared with.
        score: what is compared, such as "test accuracy".
        unit: the scores' unit; shares are drawn in points.

    Raises:
        NothingToDrawError: no cell could be tested against the baseline.
    """
    tested = differences[differences["difference"].notna()].reset_index(drop=True)
    if tested.empty:
        raise NothingToDrawError(f"no cell can be compared with {baseline}")
    scale = 100.0 if unit == "share" else 1.0
    names = [textwrap.wrap(name, NAME_CHARACTERS) for name in tested["cell"]]
    label = textwrap.wrap(f"{score}, difference to {baseline} ({unit_in_words(unit)})", LABEL)
    figure, (axes,) = panels(1, height=FRAME + LINE * len(label) + ROW * sum(map(len, names)))
    heights = _heights(names)
    for height, row in zip(heights, tested.to_dict("records"), strict=True):
        look = VERDICT_LOOKS[row["verdict"]]
        axes.plot([scale * row["low"], scale * row["high"]], [height] * 2, color=look["color"], linewidth=1.1)
        axes.plot(scale * row["difference"], height, markersize=3.8, **look)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    cut = _focus(axes, scale * tested[["difference", "low", "high"]], heights, tested["verdict"].tolist())
    axes.set_yticks(heights, ["\n".join(name) for name in names])
    axes.set_ylim(sum(map(len, names)) - 0.3, -0.7)  # the first row on top
    finish(axes, "", "")
    axes.set_xlabel("\n".join(label), loc="right")  # where names are long, the axis is shorter than its label
    axes.grid(axis="y", visible=False)
    shown = [verdict for verdict in VERDICT_LOOKS if (tested["verdict"] == verdict).any()]
    handles = [Line2D([], [], markersize=3.8, **VERDICT_LOOKS[verdict]) for verdict in shown]
    below(figure, _caption(differences, cut, higher_is_better), handles, shown)
    return figure


def _heights(names: list[list[str]]) -> list[float]:
    """Where each row stands, counted in lines from the top: the middle of its name's lines."""
    heights, line = [], 0
    for name in names:
        heights.append(line + (len(name) - 1) / 2)
        line += len(name)
    return heights


def _focus(axes: Axes, numbers: pd.DataFrame, heights: list[float], verdicts: list[str]) -> int:
    """Cut the axis where a few differences, far off, would press all others together; returns how many it leaves out.

    Args:
        numbers: `difference`, `low` and `high` in the axis's unit, a row each.
        heights: where the rows stand.
        verdicts: what the tests say of them.
    """
    sizes = numbers["difference"].abs()
    # The intervals of what is shown stay whole; the baseline's zero always is there.
    near = numbers[sizes <= REACH * max(sizes.median(), (numbers["high"] - numbers["low"]).median() or 0.0)]
    if near.empty or len(near) < len(numbers) / 2 or len(near) == len(numbers):
        return 0
    low, high = min(0.0, near.min(axis=None)), max(0.0, near.max(axis=None))
    margin = 0.06 * (high - low)
    whole_low, whole_high = numbers.min(axis=None), numbers.max(axis=None)
    if whole_high - whole_low < FAR * (high - low):
        return 0
    axes.set_xlim(low - margin, high + margin)
    outside = numbers[(numbers["difference"] < low - margin) | (numbers["difference"] > high + margin)]
    for index, row in outside.iterrows():
        is_left = row["difference"] < low
        edge, side = (low - margin, "left") if is_left else (high + margin, "right")
        arrow = f"{'◂ ' if is_left else ''}{row['difference']:+.3g}{'' if is_left else ' ▸'}"
        height, color = heights[int(str(index))], VERDICT_LOOKS[verdicts[int(str(index))]]["color"]
        axes.text(edge, height, arrow, fontsize=7, ha=side, va="center", color=color)
    return len(outside)


def _caption(differences: pd.DataFrame, cut: int, higher_is_better: bool) -> str:
    """What the marks mean, and what isn't shown."""
    side = "right" if higher_is_better else "left"
    parts = [f"Bar: 95 % interval; {side} of the line is better. Colors: paired tests, 5 % after Holm."]
    if (differences["seeds"] < SEEDS_FOR_A_VERDICT).any():
        parts.append(f"Rows with fewer than {SEEDS_FOR_A_VERDICT} seeds have no verdict.")
    if cut:
        parts.append(
            f"{cut} {'row lies' if cut == 1 else 'rows lie'} outside the axis, with the difference at its edge."
        )
    untested = differences.loc[differences["difference"].isna(), "cell"].tolist()
    if untested:
        more = f" and {len(untested) - 3} more" if len(untested) > 3 else ""
        parts.append(f"Not comparable: {', '.join(untested[:3])}{more}.")
    return " ".join(parts)
