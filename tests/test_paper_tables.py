"""A paper's number is reproduced, or not, or not comparable and why, or not run: never silently one of them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src.analysis.collect import COLUMNS, settings
from src.analysis.comparison import compare
from src.config.schema import Config
from src.config.steps import resolved_steps
from src.config.sweeps import run_configs
from src.results.identity import decisive
from src.results.schema import SCHEMA_VERSION
from src.results.store import RESULT
from src.studies.paper_tables import (
    ROW,
    Counterpart,
    Key,
    Paper,
    _counterpart,
    paper_of,
    paper_table,
    readable_paper_table,
    reported_rows,
)
from src.studies.parameter_counts import Counted
from src.studies.study_tables import counted
from tests.conftest import ROOT, run_program

STUDY = "target_sets_distilbert"
BARE = {"schema_version": SCHEMA_VERSION, "run_id": "x", "state": "done", "identity": {}, "config": {}}
TRAIN_ROWS = 25_000  # of IMDB
STUDIES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/paper.yaml"))


@pytest.fixture(scope="module")
def configs() -> list[Config]:
    return [resolved_steps(config, TRAIN_ROWS) for config in run_configs([f"experiment={STUDY}"])]


def row(config: Config, test: float, **facts: Any) -> dict[str, Any]:
    """A finished run of the study, as `collect` gives it."""
    run = {
        "run_id": f"{config.adapter.name}-{config.rank}-{config.target.name}-{config.seed}", "state": "done",
        "settings": settings(decisive(config)), "task": "imdb", "model": "distilbert",
        "adapter": config.adapter.name, "rank": config.rank if config.has_axis("rank") else None,
        "target": config.target.name if config.has_axis("target") else None, "seed": config.seed, "lr": config.lr,
        "alpha": config.alpha if config.has_axis("alpha") else None, "trial": False, "protocol": "paper",
        "validation": test, "test": test, "metric": "accuracy", "unit": "share",
        "validation_metric": "accuracy", "validation_unit": "share", "higher_is_better": True, "trained": 1000,
        "body_trained": 900, "train_rows": TRAIN_ROWS, "total": 10_000, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    return run | facts


def table(rows: list[dict[str, Any]], study: str = STUDY) -> pd.DataFrame:
    runs = pd.DataFrame(rows, columns=COLUMNS)
    runs = runs.astype({"rank": "Int64", "trained_rank": "Int64", "seed": "Int64", "trial": "boolean"})
    rows_of_paper = paper_table(study, compare(runs).cells, runs, lambda overrides: Counted(None))
    return rows_of_paper.set_index(["method", "rank", "target"])


def test_verdicts(configs: list[Config]) -> None:
    scores = {4: 0.9228, 8: 0.93, 16: 0.9267}
    rows = [
        row(config, scores[config.rank] + 0.001 * (config.seed - 1))
        for config in configs
        if config.adapter.name == "lora" and config.target.name == "qv"
    ]
    rows += [row(config, 0.93, settings=settings(decisive(config)) | {"trainer.max_steps": "4"})
             for config in configs if config.adapter.name == "full"]  # fmt: skip
    verdicts = table(rows)
    assert verdicts.loc[("lora", "4", "qv"), "verdict"] == "reproduced"
    assert verdicts.loc[("lora", "8", "qv"), "verdict"] == "not reproduced"  # 93.0 +- 0.1 for 92.48
    assert verdicts.loc[("lora", "8", "attention"), "verdict"] == "not run"
    assert verdicts.loc[("full", "", ""), "verdict"] == "not comparable"
    assert verdicts.loc[("full", "", ""), "why"] == "trainer.max_steps=4 (the study: 4689)"
    assert verdicts.loc[("lora", "4", "qv"), "measured"] == pytest.approx(92.28)
    assert verdicts["n"].tolist() == [0, 3, 3, 3, 0, 0, 3]


def test_another_rate_or_alpha_is_another_run_unless_the_rate_was_chosen_on_validation(configs: list[Config]) -> None:
    of_rank = [config for config in configs if config.rank == 4]
    other = {"lr": 1e-3}, {"alpha": 4.0}, {"lr": 1e-3, "tuning": {"trials": [], "at_edge": False}}
    whys = [
        table([row(config, 0.9228, **facts) for config in of_rank]).loc[("lora", "4", "qv"), "why"] for facts in other
    ]
    assert whys == ["lr=0.001 (the study: 0.0003)", "alpha=4 (the study: 8)", ""]


def test_one_seed_is_no_reproduction(configs: list[Config]) -> None:
    verdicts = table([row(config, 0.9228) for config in configs if config.rank == 4 and config.seed == 0])
    assert verdicts.loc[("lora", "4", "qv"), ["verdict", "why"]].tolist() == [
        "not comparable", "one seed has no interval over seeds",
    ]  # fmt: skip


def test_a_metric_beside_the_primary_is_used_and_another_is_not_held_against_it(
    configs: list[Config], tmp_path: Path
) -> None:
    rows = [row(config, 0.9, metric="f1", folder=tmp_path) for config in configs if config.rank == 4]
    assert "accuracy isn't measured here; the runs have f1" in table(rows).loc[("lora", "4", "qv"), "why"]
    record = BARE | {"metrics": {"test": {"more": {"accuracy": 0.9228}}}}
    (tmp_path / RESULT).write_text(json.dumps(record))
    assert table(rows).loc[("lora", "4", "qv"), "measured"] == pytest.approx(92.28)


def test_the_head_of_the_blog_post_is_counted_as_there() -> None:
    counts = paper_table("target_sets_distilbert", pd.DataFrame(), pd.DataFrame(columns=COLUMNS), counted)
    assert counts["computed"].astype(str).tolist() == counts["params_reported"].tolist()
    text = readable_paper_table(counts)
    assert text["reported"][0] == "82.18†"
    assert set(text["verdict"]) == {"not run"}


@pytest.mark.slow
def test_a_study_that_was_not_run_has_its_papers_table_alone(tmp_path: Path) -> None:
    folder = tmp_path / "target_sets_distilbert"
    done = run_program("src.tables", f"results_dir={folder}")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "tables").iterdir()) == ["paper.csv", "paper.md", "paper.tex"]
    assert done.stdout.count("not run") == 7
    assert run_program("src.tables", f"results_dir={folder}", "table=comparison").returncode == 2


@pytest.mark.slow
def test_a_set_of_a_run_s_task_is_held_against_the_number_of_that_set(tmp_path: Path) -> None:
    """PEFT reports GSM8K as a share; the runs are trained on MetaMathQA and scored on GSM8K and MATH-500."""
    study = "peft_metamathqa"
    jobs = [job for job in run_configs([f"experiment={study}"]) if (job.adapter.name, job.rank) == ("lora", 32)]
    rows = []
    for config in jobs:
        folder = tmp_path / str(config.seed)
        folder.mkdir()
        sets = {"gsm8k": 0.478 + 0.001 * config.seed, "math": 0.1}
        (folder / RESULT).write_text(json.dumps(BARE | {"metrics": {"test": {"sets": sets}}}))
        rows.append(row(config, 0.29, folder=folder, task="metamathqa", model=config.model.name,
                        metric="math_equivalence"))  # fmt: skip
    number = table(rows, study).xs("lora/llama-3.2-3B-rank32").iloc[0]
    assert (number["verdict"], number["n"]) == ("reproduced", 3)
    assert number["measured"] == pytest.approx(0.479)
    assert readable_paper_table(number.to_frame().T.assign(**dict.fromkeys(ROW, "")))["measured"].tolist() == ["0.479"]


def test_a_number_without_its_rank_is_held_against_no_run() -> None:
    """The width of the larger Houlsby adapters isn't reported, so the run of another width isn't theirs."""
    cells: dict[Key, int] = {("roberta_large", "houlsby", 8, frozenset[str](), "mnli"): 0}
    overrides = ["model=roberta_large", "adapter=houlsby"]
    assert _counterpart(overrides, "mnli", cells, {}) is None
    assert _counterpart([*overrides, "rank=8"], "mnli", cells, {}) == Counterpart(0)


def test_a_paper_s_reasons_are_of_the_rows_that_they_name() -> None:
    paper = Paper(
        "x", ["y"], given={"rank": "8"}, not_comparable=[{"match": {"task": ["RTE", "MRPC"]}, "why": "other"}]
    )
    assert (paper.reason({"task": "RTE"}), paper.reason({"task": "MNLI"})) == ("other", "")
    assert Paper("x", ["y"], not_comparable="all").reason({"task": "MNLI"}) == "all"
    assert [paper.completed({"rank": rank})["rank"] for rank in ("", "4")] == ["8", "4"]


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_s_paper_is_among_the_reported(study: str) -> None:
    paper = paper_of(study)
    assert paper is not None
    rows = reported_rows(paper)
    assert set(rows["table"]) == set(paper.tables)
    assert (Path(ROOT) / "conf/experiment" / f"{study}.yaml").exists()


def test_a_reported_spread_stands_beside_its_number() -> None:
    rows = reported_rows(Paper("LoRA (arXiv 2106.09685)", ["Table 2 GLUE (v2)"]))
    assert (rows["spread"] != "").any()
    assert not rows["metric"].str.contains(r"\+/-").any()
