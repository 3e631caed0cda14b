"""Seeds are added in stages until a claim is decided: no more false verdicts, no more runs than are asked for."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import ttest_power

from benchmarks.deciding import MARGIN, at_looks, case, simulated
from src.analysis.comparison import Comparison, Measured
from src.analysis.error_model import CellScores, Components, ErrorModel
from src.analysis.statistics import Estimate
from src.config.sweeps import run_configs
from src.decide import Spending, Study, decide
from src.files import write_json
from src.results.store import RESULT, read_all, run_folders
from src.studies.claims import EQUAL, GREATER, Claim
from src.studies.deciding import after_look, positions, predictive_power, seeds_in_order
from src.studies.looks import BOUNDS, EQUALITY_BOUNDS, STAGES, look_of, widening
from src.studies.verdicts import Design, decision, p_of
from tests.conftest import TINY, run_program

BETTER = Claim("a", "s", {"adapter": "lora"}, {"adapter": "full"}, GREATER)
EQUAL_TO = Claim("b", "s", {"adapter": "lora"}, {"adapter": "full"}, EQUAL, margin=0.01)
DESIGN = Design(Components(2e-5, 0.005, 0.137), seeds=3, items=3000, cells=12)


def estimate(value: float, error: float = 1.0) -> Estimate:
    return Estimate(value, error, 1e9, "seeds and items")


@pytest.mark.parametrize("look", range(4))
def test_each_look_has_its_bound(look: int) -> None:
    assert after_look(BETTER, estimate(BOUNDS[look] + 0.01), None, look).text == "reproduced"  # type: ignore[union-attr]
    assert after_look(BETTER, estimate(-BOUNDS[look] - 0.01), None, look).text == "not reproduced"  # type: ignore[union-attr]
    below = after_look(BETTER, estimate(BOUNDS[look] - 0.01), None, look)
    assert below is None if look < 3 else below is not None and below.text == "undecided"
    equal = replace(EQUAL_TO, margin=10.0)
    assert after_look(equal, estimate(9.99 - EQUALITY_BOUNDS[look]), None, look).text == "equal within the margin"  # type: ignore[union-attr]
    assert after_look(equal, estimate(10.01 + EQUALITY_BOUNDS[look]), None, look).text == "not reproduced"  # type: ignore[union-attr]


def test_predictive_power_is_how_often_the_last_look_decides() -> None:
    generator = np.random.default_rng(0)
    for claim, value in ((BETTER, 0.006), (EQUAL_TO, 0.002), (EQUAL_TO, 0.012)):
        now, last = (DESIGN.components.standard_error(seeds, 3000) for seeds in (5, 12))
        truth = generator.normal(value, now, 200_000)  # flat before, given the difference now
        more = 1 / (1 / last**2 - 1 / now**2)  # the variance of what the seeds to come say by themselves
        added = generator.normal(truth, np.sqrt(more))
        at_last = (value / now**2 + added / more) * last**2
        bound = EQUALITY_BOUNDS[-1] if claim.expected == EQUAL else BOUNDS[-1]
        decided = np.abs(at_last) > claim.margin + bound * last
        if claim.expected == EQUAL:
            decided |= np.abs(at_last) < claim.margin - bound * last
        assert predictive_power(claim, value, DESIGN, 5) == pytest.approx(decided.mean(), abs=0.01)


@pytest.mark.parametrize("look", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("claim", [BETTER, EQUAL_TO], ids=["greater", "equal"])
def test_a_look_s_p_value_is_below_a_level_where_its_interval_decides(claim: Claim, look: int | None) -> None:
    wide, generator = widening(claim, look), np.random.default_rng(0)
    for _ in range(40):
        one = Estimate(generator.normal(0, 0.02), generator.uniform(0.001, 0.01), 30.0, "seeds and items")
        for level in (0.05, 0.01):
            assert (p_of(claim, one, wide) < level) == (decision(claim, one, level, wide) != "undecided")
        assert p_of(claim, one) <= p_of(claim, one, wide) or p_of(claim, one) > 0.5


def test_many_looks_at_many_claims_are_wrong_about_any_in_at_most_5_percent() -> None:
    """Of ten true null hypotheses, each looked at four times with Holm's correction at each."""
    generator, claims, repetitions = np.random.default_rng(0), 10, 20_000
    errors = np.array([DESIGN.components.standard_error(seeds, 3000) for seeds in STAGES])
    information = np.diff(1 / errors**2, prepend=0)
    steps = generator.normal(size=(repetitions, claims, len(STAGES))) * np.sqrt(information)
    z = np.cumsum(steps, axis=2) * errors
    wide = np.array([widening(BETTER, look) for look in range(len(STAGES))])
    # Where all hypotheses are true, Holm is wrong about any where the smallest p is below its first level.
    crossed = np.abs(z) > wide * stats.norm.isf(0.05 / claims / 2)
    assert crossed.any(axis=(1, 2)).mean() < 0.05


def test_a_number_of_seeds_has_the_bound_of_the_first_look_that_has_it() -> None:
    assert [look_of(seeds) for seeds in (2, 3, 4, 5, 8, 9, 12, 20)] == [0, 0, 1, 1, 2, 3, 3, 3]


def test_a_hopeless_claim_is_given_up_and_says_why() -> None:
    error = DESIGN.components.standard_error(8, 3000)
    given_up = after_look(BETTER, estimate(0.1 * error, error), DESIGN, 2)
    assert given_up is not None
    assert given_up.text == "undecided"
    assert given_up.why.startswith("12 seeds would decide it with a probability of ")
    assert after_look(BETTER, estimate(1.8 * error, error), DESIGN, 2) is None
    small = replace(BETTER, claimed=0.002)
    undecidable = after_look(small, estimate(1.8 * error, error), DESIGN, 2)
    assert undecidable is not None
    assert undecidable.text == "can't be decided by this design"


def test_the_study_s_seeds_come_first_and_none_is_a_trial_s() -> None:
    assert seeds_in_order([0, 1, 2, 0], [100, 101]) == list(range(12))
    assert seeds_in_order([98, 7], [100, 101]) == [7, 98, 99, *range(102, 111)]


def runs_with(seeds: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame([{"seed": seed, "trial": False, "adapter": adapter}
                         for adapter, number in seeds.items() for seed in range(number)])  # fmt: skip


def compared(runs: pd.DataFrame, scores: np.ndarray) -> Comparison:
    """Cells of simulated scores with the seeds of the runs."""
    of_cells = [sorted(runs.loc[runs["adapter"] == adapter, "seed"]) for adapter in ("lora", "full")]
    made = [CellScores(seeds, scores[index][seeds], ("test",), "r") for index, seeds in enumerate(of_cells) if seeds]
    cells = pd.DataFrame({"adapter": ["lora", "full"], "task": "t", "model": "m", "higher_is_better": True,
                          "n": [len(seeds) for seeds in of_cells]})  # fmt: skip
    measured = Measured.of(cells, made)
    return Comparison(cells, measured, measured)


def test_where_a_claim_stands_follows_from_the_records_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    far = simulated(0.08, 12, np.random.default_rng(0), cells=2)
    monkeypatch.setattr("src.studies.deciding.uncompared", lambda runs: compared(runs, far))
    (fresh,) = positions([BETTER], runs_with({"lora": 2, "full": 3}), range(12))
    assert (fresh.needs, fresh.seeds) == (3, 2)
    (decided,) = positions([BETTER], runs_with({"lora": 12, "full": 5}), range(12))
    assert decided.verdict.text == "reproduced"
    assert decided.seeds <= 5  # what came later, for other claims, changes nothing
    near = simulated(0.01, 12, np.random.default_rng(3), cells=2)
    monkeypatch.setattr("src.studies.deciding.uncompared", lambda runs: compared(runs, near))
    (open_claim,) = positions([BETTER], runs_with({"lora": 3, "full": 3}), range(12))
    assert (open_claim.needs, open_claim.verdict.text) == (5, "undecided")


def test_a_claim_is_decided_at_the_level_that_holm_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_with({"lora": 12, "full": 12})
    for difference, alone, among in ((0.2, 3, 3), (0.08, 3, 5)):
        scores = simulated(difference, 12, np.random.default_rng(5), cells=2)
        monkeypatch.setattr("src.studies.deciding.uncompared", lambda runs, scores=scores: compared(runs, scores))
        (first,) = positions([BETTER], runs, range(12))
        absent = replace(BETTER, left={"adapter": "dora"})
        looked = positions([BETTER, *[replace(BETTER, claimed=0.9)] * 5, absent], runs, range(12))
        assert (first.verdict.text, looked[0].verdict.text) == ("reproduced", "reproduced")
        assert looked[-1].verdict.text == "not run"
        assert (first.seeds, looked[0].seeds) == (alone, among)


def study(folder: Path) -> Study:
    overrides = ["adapter=lora,full", "rank=2", "seed=0,1,2", "forgetting=none", f"results_dir={folder}"]
    configs = run_configs([*TINY, *overrides, f"cache_dir={folder}"])
    return Study([BETTER], configs, seeds_in_order([0, 1, 2], [100, 101]))


@pytest.mark.slow
def test_runs_are_added_within_the_budget_and_a_second_start_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide(study(tmp_path), Spending(max_runs=2))
    assert len(run_folders(tmp_path)) == 2
    assert "spent: 2 runs" in capsys.readouterr().out
    first = read_all(tmp_path)[0]
    tuning = {"axis": "lr", "seed": 100, "chosen": 1.0, "at_edge": False, "trials": []}
    write_json(tmp_path / "runs/reverse_words/tiny_llama" / first["run_id"] / RESULT, first | {"tuning": tuning})
    tuned = first["config"]["adapter"]["name"]
    assert decide(study(tmp_path), Spending(max_runs=50))
    told = capsys.readouterr().out
    records = read_all(tmp_path)
    assert {(record["config"]["adapter"]["name"], record["config"]["seed"]) for record in records} >= {
        (adapter, seed) for adapter in ("lora", "full") for seed in (0, 1, 2)
    }
    of_tuned = [record for record in records if record["config"]["adapter"]["name"] == tuned]
    assert all(record["tuning"]["chosen"] == 1.0 for record in of_tuned)
    added_for = {record["config"]["seed"]: record.get("look_seeds") for record in records}
    (cut_off,) = [record for record in records if record["run_id"] == of_tuned[-1]["run_id"]]
    path = next(tmp_path.rglob(f"{cut_off['run_id']}/{RESULT}"))
    write_json(path, {key: fact for key, fact in cut_off.items() if key not in ("tuning", "look_seeds")})
    assert decide(study(tmp_path), Spending(max_runs=50))
    assert read_all(tmp_path) == records
    assert added_for.items() <= dict(enumerate([None, None, None, 5, 5, 8, 8, 8, 12, 12, 12, 12])).items()
    number = len(records)
    assert f"spent: {number - 2} runs" in told
    assert decide(study(tmp_path), Spending(max_runs=50))
    assert len(read_all(tmp_path)) == number
    assert "spent: 0 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "decides the claims of a study.\nAllowed: experiment="),
        (["experiment=nowhere"], "experiment=nowhere is not known"),
        (["experiment=nine_runs"], "experiment=nine_runs has no claims to decide.\nAllowed: experiment="),
        (["experiment=target_sets", "max_runs=0"], "max_runs=0 is not a whole number above 0"),
        (["experiment=target_sets", "max_runs=-1"], "max_runs=-1 is not a whole number above 0"),
        (["experiment=target_sets", "max_runs=some"], "max_runs=some is not a whole number above 0"),
        (["experiment=target_sets", "max_hours=nan"], "max_hours=nan is not a number above 0"),
        (["experiment=target_sets", "plan=maybe"], "plan=maybe is not a choice"),
    ],
)
def test_a_mistake_is_answered_in_a_few_lines(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run_program("src.decide", *arguments, *([f"results_dir={tmp_path}/r"] if arguments else []))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_plan_says_what_a_sweep_can_find_and_writes_nothing(tmp_path: Path) -> None:
    common = [*TINY, "adapter=lora,full", "seed=0,1,2", f"results_dir={tmp_path}/a/b", f"cache_dir={tmp_path}"]
    done = run_program("src.run", "-m", *common, "plan=true", "detect=0.2")
    assert done.returncode == 0, done.stderr
    assert "sweep of 6 runs: 0 done already, 6 to run" in done.stdout
    (points,) = re.findall(r"3 seeds x 64 items find a difference of ([\d.]+) points", done.stdout)
    error = np.sqrt(2 * 0.25 / (3 * 64))
    assert ttest_power(float(points) / 100 / error, nobs=1, alpha=0.05, df=2) == pytest.approx(0.8, abs=0.001)
    assert "if answers are independent and half of 64 right" in done.stdout
    tuned = run_program("src.tune", *common, "plan=true")
    assert tuned.returncode == 0, tuned.stderr
    assert "trials of 2 cells: 0 done already, at least 18 to run" in tuned.stdout
    assert not (tmp_path / "a").exists()
    refused = run_program("src.run", "-m", *common, "detect=0.2")
    assert refused.returncode == 2
    assert "detect=0.2 is asked of a plan" in refused.stderr


def test_a_difference_of_two_cells_is_no_noise_where_the_others_have_fewer_seeds() -> None:
    scores = simulated(0.08, 12, np.random.default_rng(0))
    errors = [looked.standard_error for looked, _ in at_looks(scores)]
    alone = ErrorModel([CellScores(list(range(12)), cell, "simulated", "r") for cell in scores[:2]]).test(0, 1)
    assert alone is not None
    assert errors[-1] == pytest.approx(alone.estimate.standard_error, rel=0.25)


@pytest.mark.slow
def test_looking_often_makes_no_more_false_verdicts() -> None:
    simulated_case = case(0.0, is_equality=False, repetitions=250)
    decided = 1 - simulated_case["verdicts"]["undecided"]  # type: ignore[index]
    uncontrolled = simulated_case["different_at_5_percent"]["at any look"]  # type: ignore[index]
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / 250)
    assert decided < limit < uncontrolled


@pytest.mark.slow
def test_false_equality_at_the_margin_is_rare() -> None:
    at_margin = case(MARGIN, is_equality=True, repetitions=250)
    assert at_margin["verdicts"].get("equal within the margin", 0.0) < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 250)  # type: ignore[attr-defined]


def test_the_bounds_are_looked_up_with_the_degrees_of_freedom_of_each_look() -> None:
    looks = list(at_looks(simulated(0.0, 12, np.random.default_rng(0))))
    assert [design.seeds for _, design in looks] == list(STAGES)
    few = Estimate(3.4, 1.0, 4.0, "seeds and items")
    assert after_look(BETTER, few, None, 0) is None  # beyond the normal bound, within that of t
    assert stats.t.sf(3.4, 4) > stats.norm.sf(BOUNDS[0])
