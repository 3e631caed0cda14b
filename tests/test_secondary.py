"""The secondary outcome of cells: its values, intervals and tests follow from the items of all runs or none."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from src.analysis.collect import collect
from src.analysis.comparison import compare
from src.analysis.error_model import CellScores, ErrorModel
from src.analysis.tables.comparison_table import comparison_table
from src.analysis.tables.forgetting import forgetting
from src.errors import UserError
from src.results.store import PREDICTIONS, RESULT, read_record
from tests import test_tables
from tests.test_tables import ITEMS, Store

store = test_tables.store
Array = np.ndarray[Any, Any]
SIZES = np.random.default_rng(8).integers(1, 60, ITEMS["test"])
LOG_P = {"name": "log_probability", "unit": "nats", "higher_is_better": True}
BITS = {"name": "bits_per_byte", "unit": "bits per byte", "higher_is_better": False}


def with_columns(folder: Path, kind: dict[str, Any], columns: dict[str, Array], value: float, **more: Any) -> None:
    """Add a secondary outcome of the test split to a stored run, as scoring would."""
    table = pd.read_parquet(folder / PREDICTIONS)
    for name, numbers in columns.items():
        table.loc[table["split"] == "test", name] = numbers
        table[name] = table[name].astype("Float32")
    table.to_parquet(folder / PREDICTIONS, index=False)
    record = json.loads((folder / RESULT).read_text())
    known = int(np.isfinite(next(iter(columns.values()))).sum())
    record["metrics"]["test"]["secondary"] = {**kind, "value": value, "n": known, **more}
    (folder / RESULT).write_text(json.dumps(record))


def with_log_p(folder: Path, level: float, seed: int) -> Array:
    hardness = np.random.default_rng(1).random(ITEMS["test"])  # the same items are hard for all runs
    noise = np.exp(np.random.default_rng([seed, 2]).normal(size=ITEMS["test"]) / 4)
    numbers: Array = (level - hardness * noise).astype(np.float32)
    with_columns(folder, LOG_P, {"log_probability": numbers}, float(numbers.mean(dtype=np.float64)))
    return numbers


def with_bits(folder: Path, rate: float, seed: int) -> Array:
    noise = np.exp(np.random.default_rng([seed, 3, int(100 * rate)]).normal(size=len(SIZES)) / 4)
    nats: Array = (SIZES * rate * noise).astype(np.float32)
    value = float(nats.sum(dtype=np.float64) / math.log(2) / SIZES.sum())
    with_columns(folder, BITS, {"answer_nats": nats, "answer_bytes": SIZES}, value)
    return nats


def test_log_probabilities_are_tested_by_the_same_test_as_the_score(store: Store, tmp_path: Path) -> None:
    items = {
        adapter: np.stack([with_log_p(store(adapter, seed=seed), level, seed) for seed in range(3)])
        for adapter, level in (("dora", -0.2), ("lora", -0.3))
    }
    compared = compare(collect(tmp_path))
    model = ErrorModel([CellScores([0, 1, 2], items[name].astype(np.float32), "") for name in ("dora", "lora")])
    expected = model.test(0, 1)
    assert compared.test(0, 1, outcome="secondary") == expected
    assert compared.test(0, 1) == compared.test(0, 1, outcome="primary") != expected
    cells = compared.cells
    assert cells["secondary_mean"].tolist() == pytest.approx(
        [items[name].mean() for name in ("dora", "lora")], abs=1e-6
    )
    assert (cells["secondary_low"] < cells["secondary_mean"]).all()
    assert (cells["secondary_mean"] < cells["secondary_high"]).all()


def test_bits_per_byte_and_their_differences_are_ratios_of_sums(store: Store, tmp_path: Path) -> None:
    nats = {name: with_bits(store(name), rate, 0) for name, rate in (("dora", 0.8), ("lora", 0.7))}
    compared = compare(collect(tmp_path))
    ratios = [nats[name].sum(dtype=np.float64) / math.log(2) / SIZES.sum() for name in ("dora", "lora")]
    assert compared.cells["secondary_mean"].tolist() == pytest.approx(ratios)
    tested = compared.test(0, 1, outcome="secondary")
    assert tested is not None
    assert tested.difference == pytest.approx(ratios[0] - ratios[1], abs=1e-5)
    # The jackknife's standard error, each item left out once, knows nothing of linear forms.
    bits = (nats["dora"].astype(np.float64) - nats["lora"]) / math.log(2)
    without, n = (bits.sum() - bits) / (SIZES.sum() - SIZES), len(SIZES)
    error = math.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    assert tested.high - tested.difference == pytest.approx(stats.t.ppf(0.975, n - 1) * error, rel=0.03)


def test_a_ratio_s_interval_is_that_of_drawing_items_again(store: Store, tmp_path: Path) -> None:
    nats = with_bits(store(), 0.9, 0).astype(np.float64)
    cells = compare(collect(tmp_path)).cells
    draws = np.random.default_rng(4).integers(len(SIZES), size=(4000, len(SIZES)))
    low, high = np.percentile(nats[draws].sum(axis=1) / math.log(2) / SIZES[draws].sum(axis=1), [2.5, 97.5])
    assert cells["secondary_low"][0] == pytest.approx(low, abs=0.1 * (high - low))
    assert cells["secondary_high"][0] == pytest.approx(high, abs=0.1 * (high - low))


def test_a_run_without_it_leaves_the_cell_without_and_is_said(store: Store, tmp_path: Path) -> None:
    with_log_p(store(seed=0), -0.2, 0)
    store(seed=1)
    with_log_p(store("dora", seed=0), -0.2, 0)
    compared = compare(collect(tmp_path))
    cells = compared.cells.set_index("adapter")
    assert cells["secondary"].fillna("").to_dict() == {"dora": "log_probability", "lora": ""}
    assert np.isnan(cells.loc["lora", "secondary_mean"])
    assert "1 of 2 runs have no test log probability: none is shown" in cells.loc["lora", "notes"]
    assert compared.test(0, 1, outcome="secondary") is None
    assert compared.test(0, 1) is not None


def test_cells_with_other_items_are_not_compared(store: Store, tmp_path: Path) -> None:
    for adapter, missing in (("dora", 3), ("lora", 4)):
        numbers = np.full(ITEMS["test"], -0.5)
        numbers[missing] = np.nan
        with_columns(store(adapter), LOG_P, {"log_probability": numbers}, -0.5)
    compared = compare(collect(tmp_path))
    assert compared.cells["secondary_mean"].tolist() == [-0.5, -0.5]
    assert [cell.values.shape for cell in compared.secondary.scores if cell] == [(1, 100), (1, 100)]
    assert compared.test(0, 1, outcome="secondary") is None


def test_items_that_do_not_give_the_value_are_not_used(store: Store, tmp_path: Path) -> None:
    folder = store()
    with_log_p(folder, -0.2, 0)
    record = json.loads((folder / RESULT).read_text())
    record["metrics"]["test"]["secondary"]["value"] = -0.95
    (folder / RESULT).write_text(json.dumps(record))
    compared = compare(collect(tmp_path))
    assert compared.cells["secondary_mean"].tolist() == [-0.95]
    assert compared.cells["notes"].str.contains("items not used for log probability: the predictions of").all()


def test_several_sets_have_the_mean_of_theirs_and_no_items(store: Store, tmp_path: Path) -> None:
    with_columns(store(), LOG_P, {"log_probability": np.full(ITEMS["test"], -0.5)}, -0.3, sets={"a": -0.1, "b": -0.5})
    compared = compare(collect(tmp_path))
    assert compared.cells["secondary_mean"].tolist() == [-0.3]
    assert compared.cells["notes"].tolist() == [""]
    (cell,) = compared.secondary.scores
    assert cell is not None
    assert cell.values.shape == (1, 1)


def test_a_smaller_rank_of_one_training_has_none(store: Store, tmp_path: Path) -> None:
    sizes = [{"rank": 4, "adapter_trained": 500, "validation": 0.4, "test": 0.4}]
    with_log_p(store("dylora", smaller_ranks=sizes), -0.2, 0)
    cells = compare(collect(tmp_path)).cells.set_index("rank")
    assert cells["secondary"].fillna("").to_dict() == {4: "", 8: "log_probability"}
    assert cells.loc[4, "notes"] == ""


def test_the_comparison_says_what_it_is_in_what_unit_and_which_way_is_better(store: Store, tmp_path: Path) -> None:
    store()
    runs = collect(tmp_path)
    assert not any("better" in name for name in comparison_table(runs, compare(runs)).text)
    for seed in (0, 1):
        with_log_p(store(seed=seed), -0.2, seed)
    with_bits(store("dora"), 0.9, 0)
    runs = collect(tmp_path)
    made = comparison_table(runs, compare(runs))
    cells, columns = made.values.set_index("adapter"), made.text.set_index("adapter")
    lora, dora = cells.loc["lora"], cells.loc["dora"]
    spread = f"{lora.secondary_mean:.3f} ± {lora.secondary_std:.3f}"
    assert columns["log probability, nats (higher is better)"].to_dict() == {
        "dora": "-",
        "lora": f"{spread} ({lora.secondary_low:.3f} to {lora.secondary_high:.3f})",
    }
    assert columns["bits per byte (lower is better)"].to_dict() == {
        "dora": f"{dora.secondary_mean:.3f} ({dora.secondary_low:.3f} to {dora.secondary_high:.3f})",
        "lora": "-",
    }
    assert any(note.startswith("Log probability and bits per byte") for note in made.notes)


def test_rows_that_are_selected_keep_theirs(store: Store, tmp_path: Path) -> None:
    store("dora")
    with_log_p(store("lora"), -0.2, 0)
    compared = compare(collect(tmp_path))
    chosen = compared.where(compared.cells["adapter"] == "lora")
    assert [cell is not None for cell in chosen.secondary.scores] == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"value": 0.2}, r"metrics\.test\.secondary\.value is 0\.2"), ({"n": 999}, r"metrics\.test\.secondary\.n is 999"),
     ({"value": "x"}, r"metrics\.test\.secondary\.value is 'x'"), ({"unit": None}, "has no 'unit'")],
)  # fmt: skip
def test_a_record_that_can_not_be_true_is_refused(change: dict[str, Any], message: str, store: Store) -> None:
    folder = store()
    assert read_record(folder) is not None  # a record from before it
    with_log_p(folder, -0.2, 0)
    assert read_record(folder) is not None
    record = json.loads((folder / RESULT).read_text())
    secondary = record["metrics"]["test"]["secondary"] | change
    record["metrics"]["test"]["secondary"] = {key: value for key, value in secondary.items() if value is not None}
    (folder / RESULT).write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        read_record(folder)


def test_forgetting_is_shown_in_bits_where_every_run_has_them(store: Store, tmp_path: Path) -> None:
    text = {"text": "pydoc", "fingerprint": "f", "before": 2.0, "after": 2.5}
    bits = {"bytes": 7, "bits_per_byte": {"before": 1.0, "after": 1.25}}
    for seed in (0, 1):
        store("dora", seed=seed, forgetting=text | bits)
        store("lora", seed=seed, forgetting=text | (bits if seed else {}))
    runs = collect(tmp_path)
    made = forgetting(runs, compare(runs))
    assert made is not None
    assert made.text["forgetting, bits per byte"].tolist() == ["0.250 ± 0.000", "-"]
    assert made.text["forgetting, nats"].tolist() == ["0.500 ± 0.000"] * 2
    assert "comparable across tokenizers; - where a run has none" in " ".join(made.notes)
