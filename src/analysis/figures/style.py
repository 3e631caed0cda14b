"""What all figures share: the look of a method, sizes, axes, the legend, the files."""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

# The palette of Okabe and Ito (2008), and a marker each, so that no figure depends on color alone.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
WIDTH = 3.4  # inches, a column of a paper; two of them for panels side by side
HEIGHT = 2.4  # inches, without the legend
LEGEND_LINE = 0.15  # inches
FAR = 1.5  # times as long as what most need must an axis be to be cut
FEW = 0.15  # of all values may be left out of an axis, where a caller names no other share
LABEL_CHARACTERS = 30  # of a line in the legend
TITLE_CHARACTER = 0.063  # inches
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TEXT: dict[Any, Any] = {
    "font.size": 7.5, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "lines.linewidth": 1.1, "lines.markersize": 3.5, "axes.linewidth": 0.6,
    "svg.hashsalt": "figures", "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
}  # fmt: skip
Look = dict[str, Any]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with this project's sizes, and the same bytes every time."""
    with plt.rc_context(TEXT):
        yield
    plt.close("all")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A color and a marker for each method, by its position among all of them."""
    look_of = {}
    for index, name in enumerate(sorted(set(names))):
        again = index // len(COLORS)  # another marker the next time round
        look_of[name] = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[(index + again) % len(MARKERS)]}
    return look_of


def series(cells: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
    """The lines of a figure: label, look and cells in the order of rank.

    A method is one line, or one for each target set and differing setting; one for each learning rate or scaling only
    where it has several at the same rank. Each line has its color, or each method if there are more lines than colors.
    """
    lines = [line for adapter, group in cells.groupby("adapter", sort=True) for line in _lines(str(adapter), group)]
    look_of = looks(cells["adapter"])
    few = len(lines) <= len(COLORS)
    look_of_label = looks(label for _, label, _, _ in lines)
    for adapter, label, number, rows in lines:
        look = look_of_label[label] if few else look_of[adapter]
        yield label, look | {"linestyle": DASHES[number % len(DASHES)]}, rows.sort_values("rank")


def _lines(adapter: str, method_cells: pd.DataFrame) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
    """A method's lines: its name, the line's label, its number, its cells."""
    keys = [key for key in ("target", "differs") if method_cells[key].nunique(dropna=False) > 1]
    for key in ("lr", "scaling"):
        same_rank = method_cells.duplicated([*keys, "rank", "trained_rank"])
        if same_rank.any() and method_cells[key].nunique(dropna=False) > 1:
            keys.append(key)
    for number, (values, rows) in enumerate(method_cells.groupby(keys, dropna=False) if keys else [((), method_cells)]):
        named = [_named(key, value) for key, value in zip(keys, values, strict=True)]
        yield adapter, ", ".join([adapter, *named]), number, rows


def _named(key: str, value: Any) -> str:
    """A setting in a label: numbers need their name, target sets and differing settings say what they are."""
    if key in ("lr", "scaling"):
        return f"{key} {value:g}"
    return str(value)


def metric_of(cells: pd.DataFrame) -> tuple[str, float]:
    """What the cells' scores are, as the label of an axis, and the factor that takes them to its unit.

    Args:
        cells: of one split and metric, at least one.
    """
    split = cells["split"].iloc[0]
    name, unit = cells[["validation_metric", "validation_unit"] if split == "validation" else ["metric", "unit"]].iloc[
        0
    ]
    return (f"{split} {name} (%)", 100.0) if unit == "share" else (f"{split} {name} ({unit})", 1.0)


def interval_ends(cells: pd.DataFrame, scale: float) -> tuple[pd.Series, pd.Series]:
    """The ends of the cells' 95 % intervals, in the axis's unit; the score itself where there is none."""
    return scale * cells["low"].fillna(cells["mean"]), scale * cells["high"].fillna(cells["mean"])


def panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels; one is a paper's column wide, several two columns together."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    size = (WIDTH, HEIGHT) if columns == 1 else (2 * WIDTH, (1.5 if rows > 1 else HEIGHT) * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def finish(axes: Axes, x: str, y: str) -> None:
    """Name the axes and take away what nobody reads."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def focus(axes: Axes, values: "pd.Series[float]", few: float = FEW) -> str:
    """Show the values that most are near, where a few far off would press all others together.

    The axis reaches three times as far below the highest value as the median does, and as far above the lowest; where
    more than a share `few` of the values would lie outside, it shows all.

    Args:
        values: in the unit of the axis, at least one.
        few: the largest share of them that may be left out.

    Returns:
        What to write of the values that it leaves out, empty where it leaves out none.
    """
    # The median, since the mean would follow the few values that are far off.
    lowest, middle, highest = values.min(), values.median(), values.max()
    low, high = max(lowest, highest - 3 * (highest - middle)), min(highest, lowest + 3 * (middle - lowest))
    if not 0 < FAR * (high - low) < highest - lowest:
        return ""
    margin = 0.12 * (high - low)
    outside = int(((values < low - margin) | (values > high + margin)).sum())
    if outside > few * len(values):
        return ""
    axes.set_ylim(low - margin, high + margin)
    return f"{outside} point{'s' if outside > 1 else ''} outside the axis" if outside else ""


def legend_below(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """Put a legend below the figure, which grows by as much, so that the panels keep their height."""
    if not handles:
        return
    wrapped = [textwrap.fill(label, LABEL_CHARACTERS) for label in labels]
    longest = max(len(line) for label in wrapped for line in label.splitlines())
    width, height = figure.get_size_inches()
    columns = max(1, min(len(labels), int(width / (0.35 + 0.055 * longest))))
    lines = sum(max(label.count("\n") + 1 for label in wrapped[start : start + columns])
                for start in range(0, len(wrapped), columns))  # fmt: skip
    figure.set_size_inches(width, height + LEGEND_LINE * (lines + 1))
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.2)


class _PlainPowers(LogFormatterSciNotation):
    """Powers of ten on a logarithmic axis without math text, which is off for the sake of names."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")
        plain = text.replace(r"\times", "·")
        return re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(SUPERSCRIPTS), plain)


def entitle(figure: Figure, title: str) -> None:
    """Put a title above the figure, in as many lines as its width asks for."""
    width = int(figure.get_size_inches()[0] / TITLE_CHARACTER)
    figure.suptitle(textwrap.fill(title, width), fontsize=TEXT["font.size"])


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as PNG and SVG, without a date, so that the same runs give the same bytes.

    Args:
        path: without its suffix.

    Returns:
        Both files.
    """
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.get_scale() == "log"):
        if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
            axis.set_major_formatter(_PlainPowers())
        if isinstance(axis.get_minor_formatter(), LogFormatterSciNotation):
            axis.set_minor_formatter(_PlainPowers())
    files = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for file, metadata in zip(files, ({"Software": None}, {"Date": None}), strict=True):
        figure.savefig(file, dpi=300, metadata=metadata)
    return files
