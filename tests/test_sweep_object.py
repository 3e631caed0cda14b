"""A sweep as one object: its cells are found by their names, its frames are its records, and its figures its tests."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from src.analysis.cell_names import cell_names, find_cell
from src.analysis.comparison import compare
from src.analysis.differences import BETTER, OPEN, WORSE, differences_to, usual_baseline, verdict_of
from src.analysis.figures.forest import draw_forest
from src.analysis.figures.style import NothingToDrawError, drawing
from src.analysis.statistics import holm
from src.analysis.sweep import Sweep, load
from src.analysis.tidy import CURVES, ITEMS, RUNS, Texts
from src.errors import UserError
from tests.conftest import ROOT
from tests.test_figures import caption, frame, heights, run, sweep_of

NINE_RUNS = ROOT / "results/nine_runs"
LOSS = {"metric": "perplexity", "unit": "perplexity", "higher_is_better": False}


@pytest.fixture(scope="module")
def nine() -> Sweep:
    return load(NINE_RUNS)


def cells_of(*rows: dict[str, object]) -> pd.DataFrame:
    return compare(frame(*rows)).cells


# ---- names


def test_a_cell_is_named_by_its_method_and_rank_and_by_what_else_differs() -> None:
    rows = [run("lora", 8, 0), run("lora", 16, 0), run("full", None, 0, target=None)]
    assert cell_names(cells_of(*rows)) == ["full", "lora r8", "lora r16"]
    assert cell_names(cells_of(*rows, run("lora", 8, 0, target="ffn"))) == [
        "full", "lora r8 ffn", "lora r8 qv", "lora r16 qv",
    ]  # fmt: skip
    assert cell_names(cells_of(*rows, run("lora", 8, 0, lr=0.003))) == [
        "full", "lora r8 lr 0.003", "lora r8 lr 0.1", "lora r16",
    ]  # fmt: skip
    assert cell_names(cells_of(run("lora", 8, 0), run("lora", 8, 0, task="u"))) == ["lora r8 t", "lora r8 u"]
    nested = [run("dylora", rank, 0, trained_rank=8) for rank in (4, 8)]
    assert cell_names(cells_of(*nested)) == ["dylora r4 of 8", "dylora r8"]


@pytest.mark.parametrize(
    "study",
    ["nine_runs", "target_sets", "tuning", "rank_and_rate", pytest.param("rank_vs_accuracy", marks=pytest.mark.slow)],
)
def test_no_two_cells_have_one_name_and_each_is_found_by_its_own(study: str) -> None:
    sweep = load(ROOT / "results" / study)
    assert len(set(sweep.names)) == len(sweep.names)
    assert [sweep.index_of(name) for name in sweep.names] == list(range(len(sweep.names)))


@pytest.mark.parametrize(
    "wanted",
    ["lora r8", "lora  r8", "lora r 8", "lora rank 8", "lora rank=8.0", "r8 lora", "lora, r8", "lora r8 all_linear",
     "lora r8 lr 0.003", "lora r8 lr=3e-3", {"adapter": "lora", "rank": 8}, {"adapter": "lora", "rank": 8.0}],
)  # fmt: skip
def test_a_cell_is_found_however_it_is_written(nine: Sweep, wanted: Any) -> None:
    assert nine.names[nine.index_of(wanted)] == "lora r8"


def test_a_cell_without_a_rank_is_asked_for_by_none(nine: Sweep) -> None:
    assert nine.cell("full")["cell"] == nine.cell(rank=None, adapter="full")["cell"] == "full"
    assert nine.cell(adapter="lora", rank=8)["mean"] == nine.cell("lora r8")["mean"]


def test_an_ambiguous_name_lists_the_cells_that_fit(nine: Sweep) -> None:
    with pytest.raises(UserError, match=r"'lora' fits 3 cells: lora r4, lora r8, lora r16\.\nName one of them\."):
        nine.cell("lora")
    with pytest.raises(UserError, match=r"rank=4 fits 3 cells: lora r4, lora_fa r4, lora_sb r4"):
        nine.cell(rank=4)
    targets = cells_of(run("lora", 8, 0), run("lora", 8, 0, target="ffn"))
    with pytest.raises(UserError, match="'lora r8' fits 2 cells: lora r8 ffn, lora r8 qv"):
        find_cell(targets, "lora r8")


@pytest.mark.parametrize("name", ["lorra r8", "lora r8.5", "lora r88", "lora 8", "Lora r8"])
def test_an_unknown_name_is_answered_with_the_nearest(nine: Sweep, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' is no cell of these runs\.\nAllowed, the nearest first: lora r8, "):
        nine.cell(name)


@pytest.mark.parametrize("wanted", [3, None, ["lora", 8], 8.0])
def test_what_is_neither_a_name_nor_facts_is_refused(nine: Sweep, wanted: Any) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(repr(wanted))} names no cell\.\nAllowed: a name such as "):
        nine.test(wanted, "full")


def test_a_fact_that_no_cell_is_known_by_is_refused(nine: Sweep) -> None:
    with pytest.raises(UserError, match=r"Cells aren't named by rnk\.\nAllowed: rank, "):
        nine.cell(rnk=8)


def test_of_very_many_cells_a_message_lists_some() -> None:
    cells = cells_of(*(run("lora", rank, 0) for rank in range(1, 101)))
    with pytest.raises(UserError, match=r"'lora' fits 100 cells: lora r1, .* lora r10 and 90 more\."):
        find_cell(cells, "lora")


# ---- frames


def test_the_runs_frame_is_the_records(nine: Sweep) -> None:
    assert list(nine.runs) == list(RUNS)
    records = [json.loads(path.read_text()) for path in NINE_RUNS.rglob("result.json")]
    rows = nine.runs.set_index("run_id")
    assert sorted(rows.index) == sorted(record["run_id"] for record in records)
    for record in records:
        row, ledger = rows.loc[record["run_id"]], record["parameters"]
        assert row["test_score"] == record["metrics"]["test"]["value"]
        assert row["validation_score"] == record["metrics"]["validation"]["value"]
        assert row["trained_params"] == ledger["trained"]
        assert row["trained_params_without_head"] == ledger["adapter_trained"] + ledger["other_trained"]
        assert row["train_seconds"] == record["time"]["train_seconds"]
        assert row["memory_bytes"] == record["memory"]["saved_for_backward_bytes"]
        assert row["cell"].split()[0] == record["config"]["adapter"]["name"]
        assert row["seed"] == record["seeds"]["seed"]


def test_the_items_frame_is_the_stored_predictions(nine: Sweep) -> None:
    assert list(nine.items) == list(ITEMS)
    stored = next(NINE_RUNS.rglob("lora-r8-*-s1-*/predictions.parquet"))
    columns = ["split", "item", "prediction", "reference", "score"]
    expected = pq.read_table(stored, columns=columns).to_pylist()
    ours = nine.items[nine.items["run_id"] == stored.parent.name]
    assert set(ours["cell"]) == {"lora r8"}
    assert ours[columns].to_dict("records") == expected
    assert nine.items["text"].isna().all()


def test_older_predictions_of_an_accuracy_get_their_scores() -> None:
    items = load(ROOT / "results/glue_sst2").items
    assert (items["score"] == (items["prediction"] == items["reference"])).all()


def test_the_curves_frame_is_the_records_history_and_ends_with_the_final_score(nine: Sweep) -> None:
    assert list(nine.curves) == list(CURVES)
    path = next(NINE_RUNS.rglob("lora-r8-*-s1-*/result.json"))
    record = json.loads(path.read_text())
    ours = nine.curves[nine.curves["run_id"] == record["run_id"]].set_index("step")
    losses = {point["step"]: point["loss"] for point in record["history"] if "loss" in point}
    scores = {point["step"]: point["validation"] for point in record["history"] if "validation" in point}
    scores[max(losses)] = record["metrics"]["validation"]["value"]
    assert ours["train_loss"].dropna().to_dict() == losses
    assert ours["validation_score"].dropna().to_dict() == scores


def test_failed_runs_and_runs_without_files_are_rows_of_the_runs_and_of_nothing_else() -> None:
    nothing = dict.fromkeys(("test", "validation", "trained", "body_trained", "total", "memory_bytes", "history"))
    failed = {**run("lora_sb", 4, 0), **nothing, "state": "failed", "reason": "boom"}
    sweep = sweep_of(run("lora", 4, 0, folder=Path("nowhere")), failed)
    assert sweep.runs[["cell", "state"]].values.tolist() == [["lora r4", "done"], ["lora_sb r4", "failed"]]
    assert len(sweep.items) == 0
    assert set(sweep.curves["cell"]) == {"lora r4"}


# ---- disagreements


def predicted(folder: Path, predictions: list[Any], references: list[Any], scores: list[float]) -> Path:
    folder.mkdir()
    rows = {"split": "test", "item": range(len(predictions)), "prediction": predictions, "reference": references}
    pd.DataFrame(rows | {"score": np.array(scores, dtype=np.float32)}).to_parquet(folder / "predictions.parquet")
    return folder


def two_cells(tmp_path: Path, first: list[list[int]], second: list[list[int]]) -> Sweep:
    """Two methods at two seeds, with what each predicts of three items whose classes are 0, 1 and 2."""
    rows = []
    for name, seeds in (("a", first), ("b", second)):
        for seed, answers in enumerate(seeds):
            scores = [float(answer == right) for right, answer in enumerate(answers)]
            folder = predicted(tmp_path / f"{name}{seed}", answers, [0, 1, 2], scores)
            rows.append(run(name, 4, seed, folder=folder, test=float(np.mean(scores))))
    runs = frame(*rows)
    texts = Texts({"test": ["zero", "one", "<two>"]}, ["nil", "ein", "duo"])
    return Sweep(tmp_path, runs, compare(runs), lambda folder: texts)


def test_disagreements_are_the_items_whose_mean_scores_differ_with_their_texts(tmp_path: Path) -> None:
    table = two_cells(tmp_path, [[0, 1, 2], [0, 1, 1]], [[0, 2, 1], [0, 2, 1]]).disagreements("a", "b")
    assert table["text"].tolist() == ["one", "<two>"]
    assert table["reference"].tolist() == ["ein", "duo"]
    assert table["a r4"].tolist() == ["ein", "duo (1 of 2), ein (1 of 2)"]
    assert table["b r4"].tolist() == ["duo", "ein"]
    assert table["difference"].tolist() == [1.0, 0.5]
    assert table["item"].tolist() == [1, 2]


def test_cells_without_items_have_no_disagreements_and_it_is_said() -> None:
    with pytest.raises(UserError, match=r"have no items of the same seeds on test\.\nName two cells whose runs"):
        sweep_of(run("a", 4, 0, folder=Path("x")), run("b", 4, 0, folder=Path("y"))).disagreements("a", "b")


def test_where_items_have_no_scores_predictions_that_differ_are_disagreements(tmp_path: Path) -> None:
    rows = [run(name, 4, 0, folder=predicted(tmp_path / name, texts, ["x", "y"], [np.nan] * 2))
            for name, texts in (("a", ["x", "y"]), ("b", ["x", "z"]))]  # fmt: skip
    table = sweep_of(*rows).disagreements("a", "b")
    assert table[["item", "a r4", "b r4"]].values.tolist() == [[1, "y", "z"]]


# ---- tests and the forest


def test_a_test_is_the_comparison_s_and_says_itself_in_words(nine: Sweep) -> None:
    test = nine.test("lora_sb r16", "lora r8")
    reference = nine.comparison.test(nine.names.index("lora_sb r16"), nine.names.index("lora r8"))
    assert reference is not None
    assert [test.difference, test.low, test.high, test.p_value, test.over] == [
        reference.difference, reference.low, reference.high, reference.p_value, reference.over,
    ]  # fmt: skip
    assert str(test).startswith("lora_sb r16 minus lora r8: -4.0 points of test accuracy (95 % interval -4.")
    assert str(test).endswith("p < 0.001 over seeds and items: lora_sb r16 is worse, tested alone")


def test_cells_that_cannot_be_tested_say_why(nine: Sweep) -> None:
    with pytest.raises(UserError, match="they are the same cell"):
        nine.test("full", "full")
    two = sweep_of(run("a", 4, 0), run("a", 4, 0, task="u"))
    with pytest.raises(UserError, match="they differ in their task"):
        two.test("a r4 t", "a r4 u")
    with pytest.raises(UserError, match="they share no seed"):
        sweep_of(run("a", 4, 0), run("b", 4, 1)).test("a", "b")


@pytest.mark.parametrize(
    ("difference", "p", "seeds", "higher", "expected"),
    [(0.1, 0.01, 3, True, BETTER), (-0.1, 0.01, 3, True, WORSE), (0.1, 0.01, 3, False, WORSE),
     (-0.1, 0.01, 3, False, BETTER), (0.1, 0.05, 3, True, OPEN), (0.1, 0.01, 2, True, OPEN),
     (0.1, float("nan"), 3, True, OPEN)],
)  # fmt: skip
def test_a_verdict_needs_three_seeds_and_knows_which_side_is_better(
    difference: float, p: float, seeds: int, higher: bool, expected: str
) -> None:
    assert verdict_of(difference, p, seeds, higher_is_better=higher) == expected


def test_the_forest_draws_the_tests_numbers_with_verdicts_after_holm(nine: Sweep) -> None:
    figure = nine.forest()
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(names) == sorted(set(nine.names) - {"lora r8"})
    tests = [nine.test(name, "lora r8") for name in names]
    bars, points = axes.lines[:-1:2], axes.lines[1:-1:2]
    drawn = [float(np.asarray(point.get_xdata())[0]) for point in points]
    assert drawn == pytest.approx([100 * test.difference for test in tests])
    assert drawn == sorted(drawn, reverse=True)
    ends = [list(map(float, np.asarray(bar.get_xdata()))) for bar in bars]
    assert ends == [pytest.approx([100 * test.low, 100 * test.high]) for test in tests]
    adjusted = holm([test.p_value for test in tests])
    is_grey = [point.get_color() == "#8A8A8A" for point in points]
    assert is_grey == [p >= 0.05 for p in adjusted]
    assert axes.get_xlabel().replace("\n", " ") == "test accuracy, difference to lora r8 (points)"
    assert axes.get_ylim()[0] > heights(points[0])[0]  # the first row is on top


def test_another_baseline_can_be_chosen(nine: Sweep) -> None:
    differences = nine.differences("full").set_index("cell")
    assert differences.loc["head_only", "difference"] == nine.test("head_only", "full").difference
    assert "difference to full" in nine.forest("full").axes[0].get_xlabel()
    with pytest.raises(UserError, match="'ful' is no cell"):
        nine.forest("ful")


def test_the_usual_baseline_is_lora_at_its_most_common_rank_else_the_first_with_most_seeds() -> None:
    lora = [run("lora", rank, seed) for rank in (4, 8, 16) for seed in (0, 1)]
    full = [run("full", None, seed, target=None) for seed in (0, 1, 2)]
    names = {0: "full", 1: "lora 4", 2: "lora 8", 3: "lora 16"}
    assert names[usual_baseline(cells_of(*full, *lora))] == "lora 8"  # the middle of three that are equally common
    assert names[usual_baseline(cells_of(*full, *lora, run("lora", 16, 2)))] == "lora 16"
    assert usual_baseline(cells_of(run("bitfit", None, 0, target=None), *full)) == 1
    nothing = dict.fromkeys(("test", "validation"))
    with pytest.raises(UserError, match="No run of these has a score"):
        usual_baseline(cells_of({**run("lora", 4, 0), **nothing, "state": "failed", "reason": "boom"}))


def test_a_lower_perplexity_is_better_and_not_in_points() -> None:
    scores = {"lora": (9.0, 9.1, 8.9), "vera": (4.0, 3.9, 4.1), "dora": (14.0, 14.2, 14.1)}
    rows = [run(name, 4, seed, test=scores[name][seed], **LOSS) for name in scores for seed in (0, 1, 2)]
    sweep = sweep_of(*rows)
    assert sweep.differences()["cell"].tolist() == ["vera r4", "dora r4"]
    figure = sweep.forest()
    assert "left of the line is better" in caption(figure)
    label = figure.axes[0].get_xlabel().replace("\n", " ")
    assert label == "test perplexity, difference to lora r4 (perplexity)"
    assert "-5.000 perplexity of test perplexity" in str(sweep.test("vera", "lora"))


def test_one_far_off_does_not_press_the_others_together() -> None:
    differences = [0.01, 0.005, 0, -0.005, -0.01, -0.012, -0.015, -0.6]
    table = pd.DataFrame({"difference": differences, "verdict": OPEN, "seeds": 3, "p_value": 0.5})
    table["cell"] = [f"c{index}" for index in table.index]
    table = table.assign(low=table["difference"] - 0.01, high=table["difference"] + 0.01)
    with drawing():
        figure = draw_forest(table, "b", "test accuracy", "share", higher_is_better=True)
    (axes,) = figure.axes
    assert axes.get_xlim()[0] > -5
    assert [text.get_text() for text in axes.texts] == ["◂ -60"]
    assert "1 row lies outside the axis" in caption(figure)


def test_a_missing_interval_leaves_the_point_and_a_missing_test_the_name() -> None:
    nan = float("nan")
    table = pd.DataFrame({"cell": ["a", "b"], "difference": [0.1, nan], "low": nan, "high": nan, "verdict": OPEN,
                          "seeds": [1, nan], "p_value": nan})  # fmt: skip
    with drawing():
        figure = draw_forest(table, "c", "test accuracy", "share", higher_is_better=True)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a"]
    assert "Not comparable: b." in caption(figure)
    assert "Rows with fewer than 3 seeds have no verdict." in caption(figure)


# ---- how it shows itself, and small or odd pools


def test_it_shows_itself_as_the_comparison_with_its_intervals(nine: Sweep) -> None:
    text, page = repr(nine), nine._repr_html_()
    for name, mean, low in zip(nine.names, nine.cells["mean"], nine.cells["low"], strict=True):
        (line,) = [line for line in text.splitlines() if line.startswith("|") and f" {name} " in line]
        assert f"{100 * mean:.1f} ±" in line
        assert f"{100 * low:.1f} to" in line
        assert f"<td>{name}</td>" in page
    assert "<b>73.7 ± 0.5</b>" in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$x$ & y", "n" * 90])
def test_no_name_is_markup_in_a_page_or_a_figure(tmp_path: Path, name: str) -> None:
    sweep = sweep_of(*(run(adapter, 4, seed) for adapter in ("lora", name) for seed in (0, 1, 2)))
    page = sweep._repr_html_()
    assert "<script" not in page
    assert 'class="tex2jax_ignore mathjax_ignore"' in page
    figure = sweep.forest()
    figure.savefig(tmp_path / "drawn.svg")
    shown = "".join(label.get_text().replace("\n", "") for label in figure.axes[0].get_yticklabels())
    assert shown.replace(" ", "") == f"{name} r4".replace(" ", "")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_one_cell_one_seed_and_no_scores_are_said_and_nothing_breaks() -> None:
    one = sweep_of(run("lora", 4, 0))
    assert "lora r4" in repr(one)
    assert one.differences().empty
    with pytest.raises(NothingToDrawError, match="no cell can be compared with lora r4"):
        one.forest()
    two = sweep_of(run("lora", 4, 0), run("vera", 4, 0))
    with pytest.raises(NothingToDrawError):  # one number each can't be tested
        two.forest()
    nothing = dict.fromkeys(("test", "validation", "trained", "body_trained", "total", "memory_bytes", "history"))
    none = sweep_of({**run("lora", 4, 0), **nothing, "state": "failed", "reason": "boom"})
    assert "failed: boom" in repr(none)
    assert none._repr_html_()
    for draw in (none.forest, none.rank_curves, none.learning_curves):
        with pytest.raises(UserError):
            draw()


def test_a_hundred_cells_are_all_there() -> None:
    scores = np.random.default_rng(0).uniform(0.4, 0.6, (101, 3))
    sweep = sweep_of(*(run("lora", rank, seed, test=scores[rank, seed]) for rank in range(1, 101) for seed in range(3)))
    figure = sweep.forest("lora r50")
    assert len(figure.axes[0].get_yticks()) == 99
    assert len(sweep.names) == len(set(sweep.names)) == 100


def test_several_tasks_are_named_and_drawn_one_at_a_time() -> None:
    sweep = sweep_of(*(run(name, 4, seed, task=task) for name in ("lora", "vera") for seed in (0, 1) for task in "tu"))
    assert sweep.names == ["lora r4 t", "vera r4 t", "lora r4 u", "vera r4 u"]
    for draw in (sweep.forest, sweep.rank_curves, sweep.learning_curves):
        with pytest.raises(UserError, match=r"These runs are of several tasks: t, u\.\nChoose one, as in sweep.only"):
            draw()
    assert sweep.only(task="u").names == ["lora r4", "vera r4"]
    assert [part.cells["task"].unique().tolist() for part in sweep.parts()] == [["t"], ["u"]]
    assert sweep.differences("lora r4 t")["cell"].tolist() == ["vera r4 t"]
    with pytest.raises(UserError, match=r"No runs have task=x\.\nAllowed: task=t, task=u\."):
        sweep.only(task="x")


def test_the_differences_to_a_baseline_are_those_of_its_task_alone() -> None:
    compared = compare(frame(*(run(name, 4, seed, task=task) for name in "ab" for seed in (0, 1) for task in "tu")))
    assert differences_to(compared, cell_names(compared.cells), 0)["cell"].tolist() == ["b r4 t"]


def test_a_folder_without_runs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no runs\.\nMake some"):
        load(tmp_path)


@pytest.mark.parametrize(("methods", "bands"), [(6, True), (7, False)])
def test_learning_curves_have_bands_where_they_do_not_hide_each_other(methods: int, bands: bool) -> None:
    figure = sweep_of(*(run(f"m{index}", 8, seed) for index in range(methods) for seed in (0, 1))).learning_curves()
    assert any(len(axes.collections) for axes in figure.axes) == bands
    assert all(len(axes.lines) == methods for axes in figure.axes)
    assert ("Band: their range." in caption(figure)) == bands
