"""A claim's verdict follows from the difference, its interval and what is expected; claims name what exists."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from src.analysis.collect import collect
from src.analysis.comparison import compare
from src.analysis.statistics import PairedTest
from src.config.composer import CONF
from src.config.sweeps import run_configs
from src.errors import UserError
from src.studies import claims as module
from src.studies.claims import Claim, claims, claims_table, readable_claims, verdict
from tests.conftest import ROOT

STUDIES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/claims.yaml"))


def test(difference: float, half: float) -> PairedTest:
    return PairedTest(difference, difference - half, difference + half, 0.0, "seeds and items")


test.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("expected", "difference", "half", "p_value", "expected_verdict"),
    [
        ("greater", 0.02, 0.01, 0.01, "reproduced"),
        ("greater", -0.02, 0.01, 0.01, "not reproduced"),
        ("greater", 0.02, 0.03, 0.2, "undecided"),
        ("equal", 0.002, 0.005, 0.9, "reproduced"),
        ("equal", 0.002, 0.02, 0.9, "undecided"),
        ("equal", 0.03, 0.01, 0.001, "not reproduced"),
        ("equal", -0.03, 0.01, 0.001, "not reproduced"),
    ],
)
def test_a_verdict(expected: str, difference: float, half: float, p_value: float, expected_verdict: str) -> None:
    claim = Claim("", "", {}, {}, expected, margin=0.01 if expected == "equal" else 0.0)
    assert verdict(claim, test(difference, half), p_value) == expected_verdict
    mirrored = verdict(claim, test(-difference, half), p_value, higher_is_better=False)
    assert mirrored == expected_verdict
    assert verdict(claim, None, float("nan")) == "not run"


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


def test_claims_on_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [
        {"claim": "a", "source": "s", "left": {"adapter": "lora", "rank": 8}, "right": {"adapter": "head_only"},
         "expected": "greater"},
        {"claim": "b", "source": "s", "left": {"adapter": "lora_fa", "rank": 16},
         "right": {"adapter": "lora", "rank": 8}, "expected": "equal", "margin": 0.2},
        {"claim": "c", "source": "s", "left": {"adapter": "dora"}, "right": {"adapter": "full"}, "expected": "greater"},
    ]  # fmt: skip
    (tmp_path / "x").mkdir()
    (tmp_path / "x/claims.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    runs = collect(ROOT / "results/nine_runs")
    table = claims_table("x", compare(runs))
    assert table["verdict"].tolist() == ["reproduced", "reproduced", "not run"]
    means = runs.assign(rank=runs["rank"].fillna(0)).groupby(["adapter", "rank"])["test"].mean()
    assert table["difference"][0] == pytest.approx(means["lora", 8] - means["head_only", 0])
    text = readable_claims(table)
    assert text["scores"][0] == f"{100 * means['lora', 8]:.1f} against {100 * means['head_only', 0]:.1f}"
    assert text["parameters"][1] == "331,776 against 331,776"
    assert text["difference"][2] == "-"
    assert np.isnan(table["p_value"][2])


def test_a_selector_that_fits_several_cells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [
        {"claim": "a", "source": "s", "left": {"adapter": "lora"}, "right": {"adapter": "full"}, "expected": "greater"}
    ]
    (tmp_path / "x").mkdir()
    (tmp_path / "x/claims.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    with pytest.raises(UserError, match="fits 3 cells of these runs, which differ in rank"):
        claims_table("x", compare(collect(ROOT / "results/nine_runs")))


@pytest.mark.parametrize("change", [{"expected": "better"}, {"expected": "equal"}, {"left": {"adaptor": "lora"}}])
def test_a_claim_written_wrongly_is_refused(
    change: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = {
        "claim": "a",
        "source": "s",
        "left": {"adapter": "lora"},
        "right": {"adapter": "full"},
        "expected": "greater",
    }
    (tmp_path / "x").mkdir()
    (tmp_path / "x/claims.yaml").write_text(yaml.safe_dump([claim | change]))
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    with pytest.raises(UserError, match="the claim 'a' can't be read"):
        claims("x")


def test_the_adapters_of_all_claims_have_a_yaml() -> None:
    for study in STUDIES:
        for claim in claims(study):
            assert all(
                Path(CONF, "adapter", f"{selector['adapter']}.yaml").exists() for selector in (claim.left, claim.right)
            )
