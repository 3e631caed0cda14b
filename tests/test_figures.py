"""Figures show the runs as they are, look the same every time, and say why one is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D
from matplotlib.text import Text

from src.analysis.collect import COLUMNS
from src.analysis.comparison import compare
from src.analysis.figures.cost import draw_memory_versus_accuracy, draw_parameters_versus_accuracy
from src.analysis.figures.learning_rates import draw_learning_rate_curves
from src.analysis.figures.rank_curves import draw_rank_curves
from src.analysis.figures.save import FIGURES, save_all
from src.analysis.figures.style import (
    WIDTH,
    Drawing,
    NothingToDrawError,
    drawing,
    entitle,
    focus,
    looks,
    panels,
    save,
    series,
)
from src.analysis.sweep import Sweep
from src.analysis.trials import trials
from tests.conftest import run_here

TUNING = {
    "axis": "lr", "seed": 100, "chosen": 0.1, "at_edge": False,
    "trials": [{"value": 0.03, "validation": 0.4, "state": "done"}, {"value": 0.1, "validation": 0.6, "state": "done"},
               {"value": 0.3, "validation": None, "state": "diverged"}],
}  # fmt: skip


def run(adapter: str, rank: int | None, seed: int, **facts: object) -> dict[str, object]:
    cell = {"task": "t", "model": "m", "adapter": adapter, "rank": rank, "target": "qv", "seed": seed, "lr": 0.1}
    scores = {"validation": 0.5 + 0.01 * seed, "test": 0.4 + 0.03 * seed + 0.01 * (rank or 0)}
    history = [{"step": 1, "loss": 2.0 - 0.1 * seed}, {"step": 2, "loss": 1.0}, {"step": 2, "validation": 0.3}]
    return {"run_id": f"{adapter}-{rank}-{seed}", "state": "done", "settings": {"trainer.steps": "5"}, "alpha": 2.0,
            "trial": False, "run_seconds": 3.0, "metric": "accuracy", "unit": "share", "higher_is_better": True,
            "validation_metric": "accuracy", "validation_unit": "share", "trained": 1000 * (rank or 1) + 50,
            "body_trained": 1000 * (rank or 1), "total": 10_000, "memory_bytes": 2e6 * (rank or 1), "device": "cpu",
            "memory_kind": "saved for backward", "precision": "fp32", "history": history, "tuning": TUNING,
            **cell, **scores, **facts}  # fmt: skip


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    runs = pd.DataFrame(list(rows), columns=COLUMNS)
    return runs.astype({"rank": "Int64", "trained_rank": "Int64", "seed": "Int64", "trial": "boolean"})


def sweep_of(*rows: dict[str, object]) -> Sweep:
    runs = frame(*rows)
    return Sweep(Path("results"), runs, compare(runs))


def caption(figure: Drawing) -> str:
    """What stands below the figure, in one line."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.texts)


def test_every_figure_is_drawn_twice_alike_as_png_and_svg(tmp_path: Path) -> None:
    rows = [run("lora", rank, seed, test=0.4 + 0.01 * (seed * rank % 5)) for rank in (4, 8) for seed in (0, 1, 2)]
    rows += [run("full", None, 0, target=None)]
    files, missing = save_all(sweep_of(*rows), tmp_path / "a")
    again, _ = save_all(sweep_of(*rows[::-1]), tmp_path / "b")
    assert [file.name for file in files] == [f"{name}{end}" for name in FIGURES for end in (".png", ".svg")]
    assert missing == []
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    assert b"<text" in files[1].read_bytes()


def test_failed_runs_and_missing_facts_leave_the_rest_and_say_what_is_missing(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("test", "validation", "trained", "body_trained", "total", "memory_bytes", "history"))
    failed = {**run("lora_sb", 4, 0), **nothing, "state": "failed", "reason": "boom", "tuning": None}
    files, missing = save_all(sweep_of(run("lora", 4, 0, memory_bytes=None, tuning=None), failed), tmp_path)
    assert {file.stem for file in files} == {"rank_curves", "parameters_versus_accuracy", "learning_curves"}
    assert missing == [
        "forest: no cell can be compared with lora r4",
        "memory_versus_accuracy: no scored run has its memory_bytes",
        "learning_rate_curves: no run has trials of its learning rate",
    ]


def test_tasks_do_not_share_a_figure(tmp_path: Path) -> None:
    files, _ = save_all(sweep_of(run("lora", 4, 0), run("lora", 4, 0, task="u")), tmp_path)
    assert {file.stem.partition("-")[2] for file in files} == {"t-m", "u-m"}


def heights(line: Line2D) -> list[float]:
    """The points' positions on the axis of values."""
    return [float(height) for height in np.asarray(line.get_ydata())]


def test_rank_curves_show_means_and_intervals_in_percent() -> None:
    cells = compare(frame(*(run("lora", rank, seed) for rank in (4, 8) for seed in (0, 1, 2)))).cells
    figure = draw_rank_curves(cells)
    (axes,) = figure.axes
    assert figure.get_supylabel() == "test accuracy (%)"
    assert heights(axes.lines[-1]) == pytest.approx([47.0, 51.0])
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (band.min(), band.max()) == pytest.approx((100 * cells["low"].min(), 100 * cells["high"].max()))
    with pytest.raises(NothingToDrawError, match="no scored run has a rank"):
        draw_rank_curves(compare(frame(run("full", None, 0))).cells)


def test_each_method_has_a_panel_with_the_others_in_grey_and_methods_without_a_rank_as_level_lines() -> None:
    rows = [run(name, rank, 0) for name in ("dora", "lora", "vera") for rank in (1, 64)]
    figure = draw_rank_curves(compare(frame(*rows, run("full", None, 0, test=0.9))).cells)
    assert [axes.get_title() for axes in figure.axes] == ["dora", "lora", "vera"]
    for axes in figure.axes:
        *grey, level, bright = axes.lines
        assert len(grey) == 3
        assert {line.get_color() for line in grey} == {"#C8C8C8"}
        assert heights(level) == [90.0, 90.0]
        assert bright.get_color() == axes.title.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["full"]


def test_a_loss_is_not_in_percent() -> None:
    losses = {"validation_metric": "loss", "validation_unit": "nats", "test": None, "higher_is_better": False}
    rows = [run("lora", rank, 0, validation=1.5, **losses) for rank in (2, 4)]
    figure = draw_rank_curves(compare(frame(*rows)).cells)
    assert figure.get_supylabel() == "validation loss (nats)"
    assert heights(figure.axes[0].lines[-1]) == [1.5, 1.5]


def test_the_parameter_axis_is_logarithmic_and_the_memory_axis_in_megabytes() -> None:
    cells = compare(frame(run("lora", 4, 0), run("lora", 8, 0))).cells
    parameters, memory = (
        draw(cells).axes[0] for draw in (draw_parameters_versus_accuracy, draw_memory_versus_accuracy)
    )
    assert (parameters.get_xscale(), memory.get_xscale()) == ("log", "linear")
    assert memory.lines[0].get_xdata() == pytest.approx([8.0, 16.0])
    assert "saved for backward" in memory.get_xlabel()
    both = compare(frame(run("lora", 4, 0), run("lora", 8, 0, memory_kind="peak allocated on the GPU"))).cells
    with pytest.raises(NothingToDrawError, match="can't share an axis"):
        draw_memory_versus_accuracy(both)


def test_a_cell_off_the_pareto_front_is_hollow() -> None:
    cells = compare(frame(*(run("lora", rank, seed) for rank in (4, 8) for seed in (0, 1, 2)))).cells
    figure = draw_parameters_versus_accuracy(cells.assign(on_front=[True, False]))
    axes = figure.axes[0]
    faces = [tuple(color) for color in np.asarray(axes.collections[-1].get_facecolor()).tolist()]
    assert faces[1] == (1.0, 1.0, 1.0, 1.0) != faces[0]
    assert "Hollow: off the Pareto front." in caption(figure)
    assert axes.get_xlabel() == "trained parameters with the head"


def test_a_method_is_one_line_also_with_a_rate_for_each_rank_and_more_only_where_a_setting_varies() -> None:
    rows = [run("lora", rank, 0, lr=0.1 * rank) for rank in (8, 4)] + [run("full", None, 0, target=None)]
    ranks = {label: line["rank"].tolist() for label, _, line in series(compare(frame(*rows)).cells)}
    assert list(ranks) == ["full", "lora"]
    assert ranks["lora"] == [4, 8]
    labels = [label for label, _, _ in series(compare(frame(*rows, run("lora", 4, 0, lr=0.7))).cells)]
    assert labels == ["full", "lora, lr 0.4", "lora, lr 0.7", "lora, lr 0.8"]
    labels = [label for label, _, _ in series(compare(frame(*rows, run("lora", 4, 0, target="ffn"))).cells)]
    assert labels == ["full", "lora, ffn", "lora, qv"]


@pytest.mark.parametrize("number", [1, 8, 24, 64])
def test_no_two_methods_look_alike(number: int) -> None:
    names = [f"method_{index:02}" for index in range(number)]
    assert len({tuple(look.values()) for look in looks(names).values()}) == number
    # In print without color, as far as marker and dash go together.
    assert len({(look["marker"], look["linestyle"]) for look in looks(names).values()}) >= min(number, 8)


def test_lines_of_one_method_look_different_too() -> None:
    rows = [run(name, 4, 0, target=target) for name in ("a", "b", "c") for target in "uvwxyz12"]
    lines = list(series(compare(frame(*rows)).cells))
    assert len(lines) == len({tuple(look.values()) for _, look, _ in lines}) == 24


def test_trials_are_each_drawn_once_with_the_chosen_marked_and_the_diverged_below() -> None:
    drawn_trials = trials(frame(run("lora", 4, 0), run("lora", 4, 1)))
    assert drawn_trials["value"].tolist() == [0.03, 0.1, 0.3]
    assert drawn_trials["chosen"].tolist() == [False, True, False]
    axes = draw_learning_rate_curves(drawn_trials).axes[0]
    assert heights(axes.lines[0]) == [40.0, 60.0]
    assert (np.asarray(axes.lines[1].get_xdata())[0], heights(axes.lines[1])[0]) == (0.3, 40.0)
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[0.1, 60.0]]


def test_trial_runs_by_themselves_are_trials_too_at_the_heads_rate_where_the_method_has_none() -> None:
    alone = frame(*(run("lora", 4, 100, lr=lr, trial=True, tuning=None) for lr in (0.1, 0.2)),
                  *(run("head_only", None, 100, lr=None, trial=True, tuning=None, settings={"trainer.head_lr": rate})
                    for rate in ("0.25", "0.5")))  # fmt: skip
    table = trials(alone)
    assert sorted(zip(table["axis"], table["value"], strict=True)) == [
        ("lr", 0.1), ("lr", 0.2), ("trainer.head_lr", 0.25), ("trainer.head_lr", 0.5),
    ]  # fmt: skip


def test_the_smaller_ranks_of_one_training_have_no_trials() -> None:
    table = trials(frame(run("dylora", 4, 0, trained_rank=8), run("dylora", 8, 0, trained_rank=8)))
    assert set(table["rank"]) == {8}


def test_a_value_far_off_is_left_out_of_the_axis_and_told_of() -> None:
    _, (cut, whole) = panels(2, 2)
    assert focus(cut, pd.Series([10.0, 50, 51, 52, 53, 54, 55])) == "1 point outside the axis"
    assert 40 < cut.get_ylim()[0] < 46
    assert focus(whole, pd.Series([50.0, 51, 52, 53, 54, 55])) == ""


def test_an_axis_shows_the_whole_intervals_of_the_values_that_it_shows_but_for_one_too_wide() -> None:
    values = pd.Series([10.0, 50, 51, 52, 53, 54, 55])
    _, (cut, bounded) = panels(2, 2)
    assert focus(cut, values, intervals=(values - 3, values + 3)) == "1 point outside the axis"
    assert cut.get_ylim()[0] < 47
    assert 58 < cut.get_ylim()[1] < 60
    widths = pd.Series([3.0, 3, 3, 300, 3, 3, 3])
    told = focus(bounded, values, intervals=(values - widths, values + widths))
    assert told == "1 point outside the axis, intervals cut by the axis: 1"
    assert bounded.get_ylim()[0] > 30
    assert bounded.get_ylim()[1] < 75


def test_values_far_off_that_are_not_few_are_all_shown() -> None:
    (axes,) = panels(1, 1)[1]
    axes.plot([10.0, 20, 30, 50, 51, 52, 53, 54, 55])
    assert focus(axes, pd.Series([10.0, 20, 30, 50, 51, 52, 53, 54, 55])) == ""
    assert axes.get_ylim()[0] < 10


@pytest.mark.slow
def test_more_lines_than_anyone_can_tell_apart_are_not_drawn_and_it_is_said(tmp_path: Path) -> None:
    files, missing = save_all(sweep_of(*(run(f"method_{index:02}", 4, 0) for index in range(25))), tmp_path)
    assert "parameters_versus_accuracy: 25 lines are too many to tell apart" in missing[1]
    assert {file.stem for file in files} == {"rank_curves", "learning_rate_curves", "learning_curves"}


def test_a_figure_is_a_column_wide_and_its_text_at_least_7_points() -> None:
    cells = compare(frame(*(run(f"m{index}", rank, 0) for index in range(11) for rank in (1, 64)))).cells
    with drawing():
        figure = draw_rank_curves(cells)
        figure.canvas.draw()
        assert figure.get_size_inches()[0] == WIDTH
        sizes = {float(text.get_fontsize()) for text in figure.findobj(Text) if isinstance(text, Text)}
        assert min(sizes) >= 7


@pytest.mark.parametrize("name", ["lora", "x$y$", "a^{b}"])
def test_no_markup_shows_and_the_title_is_inside_the_figure(tmp_path: Path, name: str) -> None:
    """Ticks read 10³ or 4·10³ although math text is off, and a name is drawn as it is."""
    rows = [run(name, rank, 0, task="a_task_of_a_long_name", flags=["at chance"]) for rank in (2, 4, 64)]
    with drawing():
        figure = draw_parameters_versus_accuracy(compare(frame(*rows)).cells)
        entitle(figure, "m on a_task_of_a_long_name, seeds a point: 1 to 3, doubtful points: 3 (see the comparison)")
        save(figure, tmp_path / "drawn")
        (axes,) = figure.axes
        shown = [text.get_text() for text in axes.get_xticklabels()]
        title = figure.get_suptitle()
        assert {"10³", "10⁴"} <= set(shown)
        assert not any(mark in "".join(shown) for mark in "$\\{")
        axes.set_xlim(2000, 8000)
        figure.canvas.draw()
        assert "4·10³" in [text.get_text() for text in axes.get_xticklabels(minor=True)]
        (box,) = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text() == title]
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert f">{name}<" in (tmp_path / "drawn.svg").read_text()


def test_an_empty_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    done = run_here("src.figures", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "holds no runs" in done.stderr
