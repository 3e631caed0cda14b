"""Figures of the benchmarks: what a step, a sweep and a start take, and how a step grows.

    python -m benchmarks.figures

Reads the json files beside this one and writes `benchmarks/figures/<name>.svg`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from src.analysis.figures.style import COLORS, GREY, Drawing, below, drawing, entitle, finish, looks, panels

HERE = Path(__file__).parent
WIDE = 4.4  # inches
LABELS = {"rank": "rank", "tokens": "tokens a text", "texts": "texts a step"}


def read(name: str) -> Any:
    """What a benchmark wrote."""
    return json.loads((HERE / f"{name}.json").read_text())


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], unit: str) -> None:
    """Horizontal bars in the order given, the first at the top, each with its number."""
    others = ("PEFT", "plain", "authors", "as it comes")
    colors = [COLORS[1] if any(other in name for other in others) else GREY if "frozen base" in name else COLORS[0]
              for name in names]  # fmt: skip
    axes.barh(range(len(names)), values, color=colors, height=0.7)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.invert_yaxis()
    for place, value in enumerate(values):
        axes.annotate(f"{value:.3g}", (value, place), (2, 0), textcoords="offset points", va="center", fontsize=6)
    axes.margins(x=0.15)
    finish(axes, unit, "")
    axes.grid(visible=False, axis="y")


def step() -> Drawing:
    """Milliseconds of a training step, of each method beside PEFT's and the limit."""
    stored = read("step")
    settings = list(dict.fromkeys(row["setting"] for row in stored["rows"]))
    figure, axes = panels(len(settings), height=1.7)
    for panel, setting in zip(axes, settings, strict=True):
        rows = [row for row in stored["rows"] if row["setting"] == setting]
        names = [row["variant"].replace("peft", "PEFT").replace("limit", "limit: frozen base") for row in rows]
        bars(panel, names, [row["milliseconds"] for row in rows], "ms")
        panel.set_title(setting)
    below(figure, f"Medians, one thread of {stored['machine'].split(',')[0]}; MiniLM's shape, 16 texts of 64 tokens.")
    return figure


def sweep() -> Drawing:
    """Seconds a run of the plain script, of that with its options, and of this project."""
    stored = read("sweep")
    figure, axes = panels(len(stored), height=2.0)
    for panel, (precision, part) in zip(axes, stored.items(), strict=True):
        runs = {name: seconds / (9 if name.startswith("nine") else 1) for name, seconds in part["seconds"].items()}
        bars(panel, list(runs), list(runs.values()), f"seconds a run, {precision}")
    machine = next(iter(stored.values()))["machine"].split(",")[0]
    below(figure, f"Whole processes, on 2 cores of {machine}.")
    return figure


def growth() -> Drawing:
    """Milliseconds of a step against rank, length and number of texts."""
    stored = read("growth")
    axes_names = list(dict.fromkeys(row["axis"] for row in stored["rows"]))
    figure, axes = panels(len(axes_names), height=1.9)
    names = {"limit": "limit: frozen base", "lora": "LoRA", "peft lora": "LoRA, PEFT"}
    look_of = looks(names)
    for panel, axis in zip(axes, axes_names, strict=True):
        rows = [row for row in stored["rows"] if row["axis"] == axis]
        for name, label in names.items():
            panel.plot([row["value"] for row in rows], [row[name] for row in rows], label=label, **look_of[name])
        panel.set_xscale("log", base=2)
        panel.set_xticks([row["value"] for row in rows], [str(row["value"]) for row in rows])
        panel.set_ylim(bottom=0)
        finish(panel, LABELS[axis], "ms a step")
    handles, labels = axes[0].get_legend_handles_labels()
    machine = stored["machine"].split(",")[0]
    below(figure, f"Medians, float32, one thread of {machine}; else rank 8, 64 tokens, 16 texts.", handles, labels)
    return figure


def starts() -> Drawing:
    """Seconds of LoRA-SB's starts for nine runs."""
    stored = read("starts")
    figure, (axes,) = panels(1, height=1.0)
    bars(axes, ["this project", "the authors' procedure"], [stored["ours_seconds"], stored["theirs_seconds"]],
         "seconds")  # fmt: skip
    entitle(figure, "LoRA-SB's start, three ranks and three rates")
    return figure


def under_load() -> Drawing:
    """Seconds of a short run alone and beside two busy processes."""
    rows = read("under_load")["rows"]
    figure, (axes,) = panels(1, height=1.3)
    names = [f"{row['spinning']}, {where}" for row in rows for where in ("alone", "beside two busy")]
    seconds = [row[key] for row in rows for key in ("alone_seconds", "beside_two_busy_seconds")]
    bars(axes, names, seconds, "seconds of 30 steps")
    return figure


def main() -> None:
    """Draw all of them."""
    (HERE / "figures").mkdir(exist_ok=True)
    for draw in (step, sweep, growth, starts, under_load):
        with drawing():
            figure = draw()
            figure.set_size_inches(WIDE, figure.get_size_inches()[1])  # for the names of the bars
            figure.savefig(HERE / "figures" / f"{draw.__name__}.svg", metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main()
