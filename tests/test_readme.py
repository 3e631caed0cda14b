"""What the README shows is what the committed records give."""

import re
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from src.analysis.collect import collect
from src.analysis.comparison import compare, comparison
from src.analysis.formats import markdown
from src.analysis.tables.comparison_table import readable
from src.analysis.tables.rank_versus_accuracy import rank_versus_accuracy
from src.results.identity import run_folder
from src.results.store import PREDICTIONS, read_all
from src.studies.claims import claims_table, readable_claims
from tests.conftest import ROOT, composed, run_program

NINE_RUNS = ROOT / "results/nine_runs"


def test_the_readmes_table_is_made_from_the_committed_runs() -> None:
    assert markdown(readable(comparison(collect(NINE_RUNS)))) in (ROOT / "README.md").read_text()


TUNED = ["target_sets", "target_sets_imdb", "rank_vs_accuracy"]


@pytest.mark.parametrize("study", ["prompts", "glue_sst2", "glue_mrpc", "target_sets", "target_sets_imdb"])
def test_a_study_s_table_is_made_from_its_committed_runs(study: str) -> None:
    text = (ROOT / f"experiments/{study}/README.md").read_text()
    assert markdown(readable(comparison(collect(ROOT / "results" / study)))) in text


def test_the_table_of_ranks_is_made_from_its_committed_runs() -> None:
    study = "rank_vs_accuracy"
    runs = collect(ROOT / "results" / study)
    found = rank_versus_accuracy(runs, compare(runs))
    assert found is not None
    assert markdown(found.text) in (ROOT / f"experiments/{study}/README.md").read_text()
    assert set(runs.loc[~runs["trial"], "seed"]) == {0, 1, 2}
    assert runs["git_revision"].nunique() == 1


def test_the_readmes_headline_is_made_from_the_committed_runs() -> None:
    columns = ["claim", "scores", "difference", "verdict"]
    tables = [
        readable_claims(claims_table(study, compare(collect(ROOT / "results" / study))))[columns]
        for study in ("rank_vs_accuracy", "target_sets")
    ]
    assert markdown(pd.concat(tables)) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("study", TUNED)
def test_a_study_s_verdicts_on_claims_are_made_from_its_committed_runs(study: str) -> None:
    found = claims_table(study, compare(collect(ROOT / "results" / study)))
    assert markdown(readable_claims(found)) in (ROOT / f"experiments/{study}/README.md").read_text()


def test_lora_passes_the_marks_set_for_it_on_glue() -> None:
    found = {task: collect(ROOT / f"results/glue_{task}").set_index("adapter") for task in ("sst2", "mrpc")}
    majority = 279 / 408
    assert (found["sst2"].loc["lora", "test"] >= 0.85).all()
    assert (found["mrpc"].loc["lora", "test"] > majority).all()


def test_the_readme_shows_what_the_ledger_prints() -> None:
    command = "src.params model=distilbert rank=8 target=qv"
    printed = run_program(*command.split()).stdout
    shown = f"$ python -m {command}\n{printed}"
    assert "".join(f"    {line}\n" for line in shown.splitlines()) in (ROOT / "README.md").read_text()


def test_the_readme_has_the_verdicts_on_the_reported_counts() -> None:
    verdicts = pd.read_csv(ROOT / "results/tables/parameter_counts.csv")["verdict"].value_counts()
    words = " ".join((ROOT / "README.md").read_text().split())
    assert f"Of {verdicts.sum()} reported counts {verdicts['equal']} are equal to the last parameter" in words
    for verdict in (f"{verdicts['equal after rounding']} after rounding", f"{verdicts['different']} are different"):
        assert verdict in words
    assert f"{verdicts['not fixed']} can't be fixed" in words


def test_three_seeds_of_eleven_configurations_are_committed() -> None:
    runs = collect(NINE_RUNS)
    assert len(runs) == 33
    assert set(runs["state"]) == {"done"}
    assert comparison(runs)["n"].tolist() == [3] * 11


def test_committed_runs_come_from_one_clean_revision_one_machine_and_one_precision() -> None:
    records = read_all(NINE_RUNS)
    provenance = [record["provenance"] for record in records]
    assert len({own["git_revision"] for own in provenance}) == 1
    assert {own["git_dirty"] for own in provenance} == {False}
    assert len({own["device"]["name"] for own in provenance}) == 1
    assert len({own["device"]["precision"] for own in provenance}) == 1


def test_the_committed_predictions_give_the_committed_scores() -> None:
    for record in read_all(NINE_RUNS):
        (path,) = NINE_RUNS.rglob(f"{record['run_id']}/{PREDICTIONS}")
        items = pd.read_parquet(path)
        for split, metric in record["metrics"].items():
            own = items[items["split"] == split]
            assert (own["prediction"] == own["reference"]).mean() == pytest.approx(metric["value"], abs=1e-12)


def test_the_code_as_it_is_still_knows_the_committed_runs_as_its_own() -> None:
    for record in read_all(NINE_RUNS):
        was, fingerprint = record["config"], record["identity"]["task"]["fingerprint"]
        axes = [f"adapter={was['adapter']['name']}", f"rank={was['rank']}", f"seed={was['seed']}"]
        assert run_folder(composed("experiment=nine_runs", *axes), fingerprint).name == record["run_id"]


@pytest.mark.parametrize("study", ["nine_runs", "target_choice", "rank_and_rate", "tuning", "prompts", *TUNED])
def test_no_record_names_a_path_of_the_machine_it_was_made_on(study: str) -> None:
    paths = sorted((ROOT / "results" / study).rglob("*.json"))
    assert paths
    for path in paths:
        assert not re.search(r"""["' =](/|[A-Z]:\\)\w""", path.read_text()), path


def test_every_learning_rate_is_the_best_of_its_trials_on_validation() -> None:
    trials = comparison(collect(ROOT / "results/tuning"))
    counts = trials.groupby("adapter").size()
    assert set(counts) == {7}
    runs = collect(NINE_RUNS)
    for adapter in ("lora", "lora_fa", "lora_sb", "full"):
        own = trials[trials["adapter"] == adapter]
        best = own.loc[own["validation_mean"].idxmax(), "lr"]
        assert set(runs.loc[runs["adapter"] == adapter, "lr"]) == {best}
    assert trials["test_mean"].isna().all()


def test_every_task_is_in_the_table_of_tasks_with_its_metrics() -> None:
    section = (ROOT / "README.md").read_text().split("## Tasks")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    for path in sorted((ROOT / "conf/task").glob("*.yaml")):
        task: Any = OmegaConf.load(path)
        (row,) = [row for row in rows if f"`{path.stem}`" in row.split("|")[1]]
        for metric in (task.metric, *task.get("more_metrics", [])):
            assert metric in row
