"""What the README and the documentation show is what the committed records give."""

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
from src.results.store import PREDICTIONS, read_all
from src.running.inputs import folder_of
from src.studies.claims_table import claims_table, readable_claims
from tests.conftest import ROOT, composed, run_program

NINE_RUNS = ROOT / "results/nine_runs"
NUMBERS = {11: "eleven"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def words_of(page: str) -> str:
    """A page's text in one line."""
    return " ".join(text_of(page).split())


def test_the_table_of_the_nine_runs_is_made_from_the_committed_runs() -> None:
    assert markdown(readable(comparison(collect(NINE_RUNS)))) in text_of("docs/index.md")


def test_the_readmes_rows_are_some_of_that_table() -> None:
    heading, rule, *rows = markdown(readable(comparison(collect(NINE_RUNS)))).splitlines()
    shown = text_of("README.md").split(f"{heading}\n{rule}\n")[1].split("\n\n")[0].splitlines()
    assert shown == [row for row in rows if row in shown]
    assert len(shown) == 5
    assert f"These are five of {NUMBERS[len(rows)]} rows" in words_of("README.md")


def nine_runs_cell(cells: pd.DataFrame, adapter: str, rank: int | None) -> int:
    chosen = (cells["adapter"] == adapter) & (cells["rank"].isna() if rank is None else cells["rank"] == rank)
    (place,) = cells.index[chosen]
    return int(place)


@pytest.mark.slow
def test_the_readmes_findings_are_those_of_the_committed_runs() -> None:
    said = words_of("README.md").split("## Three findings")[1].split("## ")[0]
    compared = compare(collect(NINE_RUNS))
    cells = compared.cells
    full, lora_4, lora_8, lora_16, sb_16 = (
        nine_runs_cell(cells, *cell)
        for cell in (("full", None), ("lora", 4), ("lora", 8), ("lora", 16), ("lora_sb", 16))
    )
    percent = (100 * cells["test_mean"]).map("{:.1f}".format)
    assert cells.loc[[full, lora_4, lora_8], "tie"].all()
    assert f"({percent[lora_4]} and {percent[lora_8]} against {percent[full]} %)" in said
    shares = readable(cells)["trained % of all"]
    assert [f"{float(shares[place]):.1f}" for place in (lora_4, lora_8)] == ["0.7", "1.5"]
    assert "training 0.7 and 1.5 % of all parameters" in said
    p_values = []
    for rank, words in ((4, "points lower"), (8, "lower")):
        lora, lora_fa = nine_runs_cell(cells, "lora", rank), nine_runs_cell(cells, "lora_fa", 2 * rank)
        assert cells["body_trained"][lora] == cells["body_trained"][lora_fa]
        test = compared.test(lora, lora_fa)
        assert test is not None
        p_values.append(test.p_value)
        difference, low, high = (f"{100 * value:.1f}" for value in (test.difference, test.low, test.high))
        assert f"{difference} {words} [{low}, {high}] with {cells['body_trained'][lora]:,}" in said
    holm = [2 * min(p_values), max(p_values)]
    assert min(holm) > 0.05
    assert f"Holm's correction (p = {holm[0]:.3f} and {holm[1]:.3f})" in said
    assert cells["body_trained"][lora_16] / cells["body_trained"][sb_16] == 72
    assert f"72 times fewer parameters than LoRA and scores {percent[sb_16]} against {percent[lora_16]} %" in said
    claims = readable_claims(claims_of("rank_vs_accuracy"))
    (claim,) = [row for row in claims.to_dict("records") if "36 times fewer" in row["claim"]]
    assert claim["verdict"] == "not reproduced"
    assert f"36 times fewer parameters was not reproduced: {claim['difference'].replace(' [', ' points [')}" in said


def claims_of(study: str) -> pd.DataFrame:
    """The claims of a study on its committed runs."""
    runs = collect(ROOT / "results" / study)
    return claims_table(study, runs, compare(runs))


TUNED = ["target_sets", "target_sets_imdb", "rank_vs_accuracy"]


@pytest.mark.parametrize("study", ["nine_runs", "prompts", "glue_sst2", "glue_mrpc", "target_sets", "target_sets_imdb"])
def test_a_study_s_table_is_made_from_its_committed_runs(study: str) -> None:
    text = (ROOT / f"experiments/{study}/README.md").read_text()
    assert markdown(readable(comparison(collect(ROOT / "results" / study)))) in text


def test_the_table_of_ranks_is_made_from_its_committed_runs() -> None:
    study = "rank_vs_accuracy"
    runs = collect(ROOT / "results" / study)
    table = rank_versus_accuracy(runs, compare(runs))
    assert table is not None
    assert markdown(table.text) in (ROOT / f"experiments/{study}/README.md").read_text()
    # What was added later for open claims was made by other, equal code.
    assert set(runs.loc[~runs["trial"] & runs["look_seeds"].isna(), "seed"]) == {0, 1, 2}
    assert runs["shared_code"].nunique() == 1


def test_the_table_of_claims_is_made_from_the_committed_runs() -> None:
    columns = ["claim", "test accuracy % ↑", "difference", "verdict"]
    tables = [readable_claims(claims_of(study))[columns] for study in ("rank_vs_accuracy", "target_sets")]
    claims = pd.concat(tables)
    assert markdown(claims) in text_of("docs/papers.md")
    assert f"All {len(claims)} claims we tested" in text_of("README.md")
    assert (claims["verdict"] != "undecided").sum() == 12
    assert "twelve were decided" in text_of("docs/papers.md")


@pytest.mark.slow
@pytest.mark.parametrize("study", TUNED)
def test_a_study_s_verdicts_on_claims_are_made_from_its_committed_runs(study: str) -> None:
    assert markdown(readable_claims(claims_of(study))) in (ROOT / f"experiments/{study}/README.md").read_text()


def test_lora_passes_the_marks_set_for_it_on_glue() -> None:
    runs = {task: collect(ROOT / f"results/glue_{task}").set_index("adapter") for task in ("sst2", "mrpc")}
    majority = 279 / 408
    assert (runs["sst2"].loc["lora", "test"] >= 0.85).all()
    assert (runs["mrpc"].loc["lora", "test"] > majority).all()


def test_the_page_on_counting_shows_what_the_ledger_prints() -> None:
    command = "src.params model=distilbert rank=8 target=qv"
    printed = run_program(*command.split()).stdout
    assert f"```console\n$ python -m {command}\n{printed}```\n" in text_of("docs/counting.md")


def test_the_page_on_counting_has_the_verdicts_on_the_reported_counts() -> None:
    verdicts = pd.read_csv(ROOT / "results/tables/parameter_counts.csv")["verdict"].value_counts()
    words = words_of("docs/counting.md")
    assert f"Of {verdicts.sum()} reported counts, {verdicts['equal']} are equal to the last parameter" in words
    for verdict in (f"{verdicts['equal after rounding']} after rounding", f"{verdicts['different']} are different"):
        assert verdict in words
    assert f"{verdicts['not fixed']} can't be determined" in words


def test_three_seeds_of_eleven_configurations_are_committed() -> None:
    runs = collect(NINE_RUNS)
    assert len(runs) == 33
    assert set(runs["state"]) == {"done"}
    assert comparison(runs)["n"].tolist() == [3] * 11


def test_committed_runs_come_from_one_clean_revision_one_machine_and_one_precision() -> None:
    records = read_all(NINE_RUNS)
    provenance = [record["provenance"] for record in records]
    assert len({source["git_revision"] for source in provenance}) == 1
    assert {source["git_dirty"] for source in provenance} == {False}
    assert len({source["device"]["name"] for source in provenance}) == 1
    assert len({source["device"]["precision"] for source in provenance}) == 1


def test_the_committed_predictions_give_the_committed_scores() -> None:
    for record in read_all(NINE_RUNS):
        (path,) = NINE_RUNS.rglob(f"{record['run_id']}/{PREDICTIONS}")
        items = pd.read_parquet(path)
        for split, metric in record["metrics"].items():
            rows = items[items["split"] == split]
            assert (rows["prediction"] == rows["reference"]).mean() == pytest.approx(metric["value"], abs=1e-12)


def test_the_code_as_it_is_gives_the_committed_runs_their_ids() -> None:
    for record in read_all(NINE_RUNS):
        was = record["config"]
        axes = [f"adapter={was['adapter']['name']}", f"rank={was['rank']}", f"seed={was['seed']}"]
        # On this processor auto may be another format.
        precision = f"trainer.precision={record['identity']['trainer']['precision']}"
        assert folder_of(composed("experiment=nine_runs", *axes, precision)).name == record["run_id"]


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
        tried = trials[trials["adapter"] == adapter]
        best = tried.loc[tried["validation_mean"].idxmax(), "lr"]
        assert set(runs.loc[runs["adapter"] == adapter, "lr"]) == {best}
    assert trials["test_mean"].isna().all()


def test_every_task_is_in_the_table_of_tasks_with_its_metrics() -> None:
    rows = [row for row in text_of("docs/tasks.md").splitlines() if row.startswith("| `")]
    for path in sorted((ROOT / "conf/task").glob("*.yaml")):
        task: Any = OmegaConf.load(path)
        (row,) = [row for row in rows if f"`{path.stem}`" in row.split("|")[1]]
        for metric in (task.metric, *task.get("more_metrics", [])):
            assert metric in row


def test_every_method_is_in_the_table_of_methods() -> None:
    named = " ".join(row.split("|")[1] for row in text_of("docs/methods.md").splitlines() if row[:3] == "| `")
    named = named.replace("`adapter=`", "")
    folder = ROOT / "conf/adapter"
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    assert sorted(re.findall("`([^`]+)`", named)) == sorted(names)


def test_every_study_is_in_the_table_of_studies() -> None:
    rows = " ".join(row.split("|")[1] for row in text_of("docs/papers.md").splitlines() if row.startswith("| ["))
    studies = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")} - {"golden"}  # checks the code alone
    assert set(re.findall(r"\[(\w+)\]", rows)) == studies


def test_the_quickstart_s_output_in_the_readme_is_that_of_the_committed_runs() -> None:
    """Its rows are seed 0 of the nine runs; times are a machine's own."""
    shown = re.findall(
        r"^ {4}(lora\w*) +(\d+) all_linear +0 +(\S+) +\d+ +(\S+) (\S+) (\S+) \d+$", text_of("README.md"), re.M
    )
    runs = collect(NINE_RUNS)
    assert len(shown) == 3
    for adapter, rank, *numbers in shown:
        chosen = (runs["adapter"] == adapter) & (runs["rank"] == int(rank)) & (runs["seed"] == 0)
        (run,) = runs[chosen].to_dict("records")
        scores = [f"{run[split]:.4f}" for split in ("validation", "test")]
        assert numbers == [f"{run['lr']:g}", f"{run['body_trained']:,}", *scores]
