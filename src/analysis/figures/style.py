"""What all figures share: the look of a method, sizes, axes, legend and caption, the files."""

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from src.errors import UserError

# The palette of Okabe and Ito (2008), with a wine red of Tol in place of its grey, which is for what stands back; and
# a marker each, so that no figure depends on color alone.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
GREY = "#555555"
WIDTH = 3.3  # inches, a column of a paper
HEIGHT = 2.3  # inches, without legend and caption
LINE = 0.145  # inches, of a legend or a caption
CHARACTER = 0.05  # inches, of a text of 7 points; of capitals and of bold ones more
FAR = 1.5  # times as long as what most need must an axis be to be cut
FEW = 0.15  # of all values may be left out of an axis, where a caller names no other share
LABEL_CHARACTERS = 46  # of a label in a line of the legend
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TEXT: dict[Any, Any] = {
    "font.size": 7.5, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "lines.linewidth": 1.1, "lines.markersize": 3.5, "axes.linewidth": 0.6,
    "svg.hashsalt": "figures", "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
}  # fmt: skip
Look = dict[str, Any]


class NothingToDrawError(UserError):
    """The runs hold nothing that a figure could show; the message says what is missing."""


class Drawing(Figure):
    """A figure that shows itself in a notebook and is drawn with this project's sizes, whatever the settings there."""

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """As Matplotlib's: labels of ticks are made at this moment, and must look like the others."""
        with drawing():
            self._settle()
            super().savefig(*args, **kwargs)

    def _settle(self) -> None:
        """Lay the figure out once and round the panels' places, whose last digits differ from process to process."""
        self.draw_without_rendering()
        self.set_layout_engine("none")
        for axes in self.axes:
            axes.set_position([round(edge, 4) for edge in axes.get_position().bounds])  # type: ignore[arg-type]

    def _repr_png_(self) -> bytes:
        """The picture for a notebook's page."""
        buffer = io.BytesIO()
        self.savefig(buffer, dpi=200, format="png")
        return buffer.getvalue()


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with this project's sizes, and the same bytes every time."""
    with matplotlib.rc_context(TEXT):
        yield


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A color, a marker and a dash for each method, by its position among all of them; no two of 64 are alike."""
    look_of = {}
    for index, name in enumerate(sorted(set(names))):
        again = index // len(COLORS)  # another marker and another dash the next time round
        look_of[name] = {
            "color": COLORS[index % len(COLORS)],
            "marker": MARKERS[(index + again) % len(MARKERS)],
            "linestyle": DASHES[again % len(DASHES)],
        }
    return look_of


def series(cells: pd.DataFrame) -> Iterator[tuple[str, Look, pd.DataFrame]]:
    """The lines of a figure: label, look and cells in the order of rank.

    A method is one line, or one for each target set and differing setting; one for each learning rate or scaling only
    where it has several at the same rank. Each line has a look of its own.
    """
    lines = [line for adapter, group in cells.groupby("adapter", sort=True) for line in _lines(str(adapter), group)]
    look_of = looks(label for label, _ in lines)
    for label, rows in lines:
        yield label, look_of[label], rows.sort_values("rank")


def _lines(adapter: str, method_cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """A method's lines: each one's label and cells."""
    keys = [key for key in ("target", "differs") if method_cells[key].nunique(dropna=False) > 1]
    for key in ("lr", "scaling"):
        same_rank = method_cells.duplicated([*keys, "rank", "trained_rank"])
        if same_rank.any() and method_cells[key].nunique(dropna=False) > 1:
            keys.append(key)
    for values, rows in method_cells.groupby(keys, dropna=False) if keys else [((), method_cells)]:
        named = [_named(key, value) for key, value in zip(keys, values, strict=True)]
        yield ", ".join([adapter, *named]), rows


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


def panels(count: int, columns: int = 1, height: float = HEIGHT, *, share: bool = False) -> tuple[Drawing, list[Axes]]:
    """A figure of so many panels, all together a paper's column wide.

    Args:
        height: of a panel, in inches.
        share: whether all panels have the same axes, of which only the outer ones are labelled.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Drawing(figsize=(WIDTH, rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
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


def focus(
    axes: Axes, values: "pd.Series[float]", few: float = FEW, intervals: tuple[pd.Series, pd.Series] | None = None
) -> str:
    """Show the values that most are near, where a few far off would press all others together.

    The axis reaches three times as far below the highest value as the median does, and as far above the lowest; where
    more than a share `few` of the values would lie outside, it shows all. Intervals of the values that it shows are
    whole, but where one is so wide that the others' differences would be lost.

    Args:
        values: in the unit of the axis, at least one.
        few: the largest share of them that may be left out.
        intervals: the lower and the upper ends of their intervals.

    Returns:
        What to write of the values and the intervals that it leaves out, empty where it leaves out none.
    """
    # The median, since the mean would follow the few values that are far off.
    lowest, middle, highest = values.min(), values.median(), values.max()
    low, high = max(lowest, highest - 3 * (highest - middle)), min(highest, lowest + 3 * (middle - lowest))
    if not 0 < FAR * (high - low) < highest - lowest:
        return ""
    margin = 0.12 * (high - low)
    shown = values.between(low - margin, high + margin)
    outside = int((~shown).sum())
    if outside > few * len(values):
        return ""
    ends = [end[shown] for end in intervals or (values, values)]
    span = high - low + 2 * margin
    bottom = max(min(low - margin, ends[0].min() - margin / 2), low - span)
    top = min(max(high + margin, ends[1].max() + margin / 2), high + span)
    axes.set_ylim(bottom, top)
    cut = int(((ends[0] < bottom) | (ends[1] > top)).sum())
    told = [f"{outside} point{'s' if outside > 1 else ''} outside the axis"] if outside else []
    told += [f"intervals cut by the axis: {cut}"] if cut else []
    return ", ".join(told)


def below(figure: Drawing, caption: str, handles: Sequence[Any] = (), labels: Sequence[str] = ()) -> float:
    """Put a legend and the caption below the figure, which grows by as much, so that the panels keep their height.

    Args:
        caption: sentences that say what the marks mean and what isn't shown.

    Returns:
        The share of the figure's height that legend and caption take.
    """
    lines = textwrap.wrap(caption, int(WIDTH / CHARACTER))
    wrapped = [textwrap.fill(label, LABEL_CHARACTERS) for label in labels]
    columns, legend_lines = _legend_size(wrapped)
    width, height = figure.get_size_inches()
    total = height + LINE * (len(lines) + 0.5 + (legend_lines + 0.5 if wrapped else 0))
    figure.set_size_inches(width, total)
    of_caption = LINE * (len(lines) + 0.5) / total
    bottom = float(1 - height / total)
    figure.set_layout_engine("constrained", rect=(0, bottom, 1, 1 - bottom))
    figure.text(0.02, of_caption, "\n".join(lines), va="top", fontsize=7, color=GREY, linespacing=1.25)
    if wrapped:
        figure.legend(
            list(handles), wrapped, loc="upper center", bbox_to_anchor=(0.5, bottom), borderaxespad=0, ncols=columns,
            frameon=False, handlelength=2.6, labelspacing=0.25, borderpad=0.2,
        ).set_in_layout(False)  # fmt: skip
    return bottom


def _legend_size(labels: Sequence[str]) -> tuple[int, int]:
    """In how many columns the labels fit, and how many lines they take."""
    longest = max((len(line) for label in labels for line in label.splitlines()), default=1)
    columns = max(1, min(len(labels), int(WIDTH / (0.5 + CHARACTER * longest))))
    rows = math.ceil(len(labels) / columns)
    # Columns are filled one after the other; a row is as high as its highest label.
    return columns, sum(max((label.count("\n") + 1 for label in labels[row::rows]), default=0) for row in range(rows))


def log_scale(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with powers of ten that are read as such."""
    axes.set_xscale("log")
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(_PlainPowers())


class _PlainPowers(LogFormatterSciNotation):
    """Powers of ten on a logarithmic axis without math text, which is off for the sake of names."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")
        plain = text.replace(r"\times", "·")
        return re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(SUPERSCRIPTS), plain)


def entitle(figure: Figure, title: str) -> None:
    """Put a title above the figure, in as many lines as its width asks for."""
    lines = textwrap.wrap(title, int(WIDTH / (CHARACTER * 1.15)))
    figure.suptitle("\n".join(lines), fontsize=TEXT["font.size"])
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + LINE * (len(lines) - 1))


def save(figure: Drawing, path: Path) -> list[Path]:
    """Write the figure as PNG and SVG, without a date, so that the same runs give the same bytes.

    Args:
        path: without its suffix.

    Returns:
        Both files.
    """
    files = [path.with_name(f"{path.name}{suffix}") for suffix in (".png", ".svg")]
    for file, metadata in zip(files, ({"Software": None}, {"Date": None}), strict=True):
        figure.savefig(file, dpi=300, metadata=metadata)
    return files
