"""Claims name what exists, and each has a row that says what the runs show or why they show nothing."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from src.analysis.collect import collect
from src.analysis.comparison import uncompared
from src.config.composer import CONF
from src.config.sweeps import run_configs
from src.errors import UserError
from src.studies import claims as module
from src.studies.claims import claims
from src.studies.claims_table import claims_table, readable_claims
from src.studies.deciding import positions, seeds_in_order
from src.studies.looks import BOUNDS
from tests.conftest import ROOT

STUDIES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/claims.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_every_claim_names_cells_of_its_study(study: str) -> None:
    configs = run_configs([f"experiment={study}", "seed=0"])
    cells = {(config.adapter.name, config.rank if config.has_axis("rank") else None,
              config.target.name if config.has_axis("target") else None) for config in configs}  # fmt: skip
    for claim in claims(study):
        for selector in (claim.left, claim.right):
            fits = [
                cell
                for cell in cells
                if all(value in cell for value in selector.values()) and cell[0] == selector["adapter"]
            ]
            assert fits, (claim.claim, selector)


def claim_of(left: dict[str, Any], right: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"claim": "a", "source": "s", "left": left, "right": right, "expected": "greater", **more}


def study_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *written: dict[str, Any]) -> None:
    """Let the study x have these claims."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x/claims.yaml").write_text(yaml.safe_dump(list(written)))
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)


def table_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The claims of the study x on these runs."""
    return claims_table("x", runs, uncompared(runs))


@pytest.fixture(scope="module")
def nine_runs() -> pd.DataFrame:
    return collect(ROOT / "results/nine_runs")


LORA, FULL, HEAD = {"adapter": "lora", "rank": 8}, {"adapter": "full"}, {"adapter": "head_only"}


def test_claims_on_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine_runs: pd.DataFrame) -> None:
    equal = {"expected": "equal", "margin": 0.2}
    study_of(tmp_path, monkeypatch, claim_of(LORA, HEAD), claim_of({"adapter": "lora_fa", "rank": 16}, LORA, **equal),
             claim_of({"adapter": "dora"}, FULL), claim_of({"adapter": "lora"}, FULL),
             claim_of(LORA, HEAD, claimed=0.5))  # fmt: skip
    table = table_of(nine_runs)
    assert table["verdict"].tolist() == [
        "reproduced", "equal within the margin", "not run", "not comparable", "smaller than claimed",
    ]  # fmt: skip
    means = nine_runs.assign(rank=nine_runs["rank"].fillna(0)).groupby(["adapter", "rank"])["test"].mean()
    assert table["difference"][0] == pytest.approx(means["lora", 8] - means["head_only", 0])
    assert table["why"][2] == "no finished run: dora"
    assert table["why"][3] == "lora fits 3 cells, which differ in rank, alpha"
    assert (table[["left_n", "right_n"]].iloc[0] == 3).all()
    assert table["coverage"].tolist()[:2] == [pytest.approx(0.975), pytest.approx(0.9)]
    assert table["p_holm"].isna().tolist() == [False, False, True, True, False]
    text = readable_claims(table)
    assert text["test accuracy % ↑"][0] == f"{100 * means['lora', 8]:.1f} against {100 * means['head_only', 0]:.1f}"
    assert text["n"][0] == "3, 3"
    assert text["tuning"][0] == "untuned"
    assert text["difference"][2] == "-"


def test_one_or_two_seeds_are_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine_runs: pd.DataFrame) -> None:
    study_of(tmp_path, monkeypatch, claim_of(LORA, HEAD))
    fewer = nine_runs[(nine_runs["adapter"] != "lora") | nine_runs["seed"].isin([0, 1])].reset_index(drop=True)
    table = table_of(fewer)
    assert table[["verdict", "why"]].iloc[0].tolist() == ["too few seeds", "2 of 3"]
    assert np.isnan(float(table["p_holm"][0] or np.nan))
    one = nine_runs[nine_runs["seed"] == 0].reset_index(drop=True)
    assert table_of(one)["verdict"].tolist() == ["too few seeds"]


def test_cells_without_a_shared_seed_are_tested_unpaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine_runs: pd.DataFrame
) -> None:
    study_of(tmp_path, monkeypatch, claim_of(LORA, HEAD))
    apart = nine_runs.assign(seed=nine_runs["seed"] + 10 * (nine_runs["adapter"] == "lora"))
    (row,) = table_of(apart).to_dict("records")
    (paired,) = table_of(nine_runs).to_dict("records")
    assert row["difference"] == pytest.approx(paired["difference"])
    assert row["low"] < row["difference"] < row["high"]
    assert row["low"] != paired["low"]
    assert row["over"] == "seeds and items"


def test_other_data_and_a_missing_score_are_not_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine_runs: pd.DataFrame
) -> None:
    study_of(tmp_path, monkeypatch, claim_of(LORA, HEAD))
    of_lora = nine_runs["adapter"] == "lora"
    other = nine_runs.assign(fingerprint=nine_runs["fingerprint"].where(~of_lora, "another"))
    assert table_of(other)["why"].tolist() == ["other data"]
    other = nine_runs.assign(metric=nine_runs["metric"].where(~of_lora, "f1"))
    assert table_of(other)["why"].tolist() == ["other metric"]
    unscored = nine_runs.assign(test=nine_runs["test"].where(~of_lora))
    assert table_of(unscored)["verdict"].tolist() == ["not comparable"]


@pytest.mark.parametrize(("added_to_right", "seeds", "look"), [(True, [0, 1, 2, 10, 11], 1), (False, [0, 1, 2], 0)])
def test_a_claim_to_which_seeds_were_added_stands_at_its_last_whole_look(
    added_to_right: bool,
    seeds: list[int],
    look: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nine_runs: pd.DataFrame,
) -> None:
    study_of(tmp_path, monkeypatch, claim_of(LORA, FULL))
    monkeypatch.setattr("src.studies.deciding.FUTILE", 0.0)
    cells = [nine_runs[nine_runs["adapter"].eq("lora") & nine_runs["rank"].eq(8)],
             nine_runs[nine_runs["adapter"].eq("full")]]  # fmt: skip
    more = [cell.assign(seed=cell["seed"] + 10, run_id=cell["run_id"] + "+", look_seeds=5)
            for cell in cells[: 1 + added_to_right]]  # fmt: skip
    runs = pd.concat([nine_runs, *more], ignore_index=True)
    (row,) = table_of(runs).to_dict("records")
    at_look = runs[runs["seed"].isin(seeds)].assign(look_seeds=pd.NA)
    (single,) = table_of(at_look.reset_index(drop=True)).to_dict("records")
    assert (row["left_n"], row["right_n"]) == (len(seeds), len(seeds))
    assert row["difference"] == pytest.approx(single["difference"])
    quantile = stats.norm.isf(row["p_value"] / 2)
    assert quantile == pytest.approx(stats.norm.isf(single["p_value"] / 2) * 1.959964 / BOUNDS[look], rel=1e-4)
    assert row["high"] - row["low"] > single["high"] - single["low"]


@pytest.mark.slow
def test_the_table_and_src_decide_agree_on_every_claim_that_seeds_were_added_for() -> None:
    study = "rank_vs_accuracy"
    runs = collect(ROOT / "results" / study)
    configs = run_configs([f"experiment={study}"])
    order = seeds_in_order([config.seed for config in configs], [100, 101])
    at_once = claims_table(study, runs, uncompared(runs))
    by_looks = positions(claims(study), runs, order)
    assert at_once["verdict"].tolist() == [position.verdict.text for position in by_looks]
    decided = [position.seeds for position in by_looks if position.verdict.text != "undecided"]
    assert min(decided) < max(decided)  # not all at one look


def test_a_loss_that_is_lower_is_the_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine_runs: pd.DataFrame
) -> None:
    study_of(tmp_path, monkeypatch, claim_of(LORA, HEAD))
    lower = nine_runs.assign(higher_is_better=False)
    assert table_of(lower)["verdict"].tolist() == ["not reproduced"]


def test_what_two_cells_differ_in_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine_runs: pd.DataFrame
) -> None:
    study_of(tmp_path, monkeypatch, claim_of(LORA, HEAD))
    of_lora = nine_runs["adapter"] == "lora"
    longer = [{**one, "trainer.max_steps": "7"} if lora else one
              for one, lora in zip(nine_runs["settings"], of_lora, strict=True)]  # fmt: skip
    trials = {"axis": "lr", "seed": 100, "chosen": 0.1, "at_edge": False,
              "trials": [{"value": 0.1, "state": "done", "validation": 0.5}]}  # fmt: skip
    tuning = pd.Series([trials if lora else None for lora in of_lora])
    other = nine_runs.assign(settings=longer, tuning=tuning, hardware=nine_runs["hardware"].where(~of_lora, "a GPU"))
    (row,) = table_of(other).to_dict("records")
    assert row["differs_in"] == "trainer.max_steps (7 against 200), tuning (1 seed against untuned), hardware"
    assert (row["left_tuning"], row["right_tuning"]) == ("1 trials", "untuned")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expected": "better"}, "expected: better"),
        ({"expected": "equal"}, "expected: equal"),
        ({"margin": 0.1}, "expected: greater margin: 0.1"),
        ({"expected": "equal", "margin": -0.1}, "margin: -0.1"),
        ({"claimed": "much"}, "claimed: much"),
        ({"claimed": float("nan")}, "claimed: nan"),
        ({"left": {"adaptor": "lora"}}, "cells aren't named by 'adaptor'.\nAllowed: "),
        ({"left": "lora"}, "left is 'lora'"),
        ({"merit": 1}, "it has 'merit'.\nAllowed: "),
    ],
)
def test_a_claim_written_wrongly_is_refused(
    change: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_of(tmp_path, monkeypatch, claim_of({"adapter": "lora"}, FULL) | change)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        claims("x")
    assert "the claim 'a' can't be read" in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("text", ["", "a: [", "claim: a", "- a", "\xff"])
def test_a_file_that_holds_no_claims_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study_of(tmp_path, monkeypatch)
    (tmp_path / "x/claims.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"claims\.yaml"):
        claims("x")


def test_the_adapters_of_all_claims_have_a_yaml() -> None:
    for study in STUDIES:
        for claim in claims(study):
            assert all(
                Path(CONF, "adapter", f"{selector['adapter']}.yaml").exists() for selector in (claim.left, claim.right)
            )
