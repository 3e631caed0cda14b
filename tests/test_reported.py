"""Reported parameter counts: read without guessing, compared as they were rounded, and all of them shown."""

from typing import Any

import pandas as pd
import pytest

from src.adapters.ledger import Ledger
from src.analysis.formats import latex
from src.studies.counting import count_configs
from src.studies.parameter_counts import DIFFERENT, EQUAL, NOT_FIXED, ROUNDED, count_verdict, readable_counts
from src.studies.reported import COUNT, FOLDER, load_readings, read_configuration, reported, reported_counts
from tests.conftest import ROOT

COMMITTED = ROOT / "results" / "tables" / "parameter_counts.csv"


def some_ledger(trained: int, base: int, frozen: int = 0) -> Ledger:
    return Ledger(trained, 0, 0, frozen, base, base, 0, 0)


@pytest.mark.parametrize(
    ("reported_count", "unit", "count", "verdict"),
    [
        ("1538", "params", 1_538, EQUAL),
        ("1538", "params", 1_539, DIFFERENT),
        ("0.8", "M", 786_432, ROUNDED),
        ("4.7", "M", 18_874_368, DIFFERENT),
        ("55.2", "K", 55_296, ROUNDED),  # cut: rounded it were 55.3
        ("55.2", "K", 55_150, ROUNDED),
        ("55.2", "K", 55_149, DIFFERENT),
        ("18", "M", 18_874_368, ROUNDED),  # cut
        ("175000", "M", 174_604_259_328, ROUNDED),
        ("0.35", "M", 393_216, DIFFERENT),
    ],
)
def test_a_count_is_compared_to_the_digits_that_were_reported(
    reported_count: str, unit: str, count: int, verdict: str
) -> None:
    assert count_verdict(reported_count, unit, count, some_ledger(count, 10**12))[0] == verdict


def test_a_percentage_may_be_of_the_base_or_of_base_and_adapter() -> None:
    assert count_verdict("50.0", "% of params", 50, some_ledger(50, 100))[0] == ROUNDED
    verdict, why = count_verdict("33.3", "% of params", 50, some_ledger(50, 100))
    assert (verdict, "as PEFT prints it" in why) == (ROUNDED, True)
    assert count_verdict("40.0", "% of params", 50, some_ledger(50, 100))[0] == DIFFERENT


@pytest.mark.slow
def test_every_reading_can_be_composed() -> None:
    readings = load_readings()
    overrides = {tuple(read_configuration(row, readings).overrides) for row in reported_counts().to_dict("records")} - {
        ()
    }
    assert len(overrides) > 60
    for group in overrides:
        count_configs(list(group))


def test_what_stands_in_no_list_is_not_guessed() -> None:
    row = dict.fromkeys(COUNT, "") | {"model": "GPT-2 M", "method": "LoRA", "rank": "4", "params_unit": "M"}
    assert read_configuration(row, load_readings()).overrides == ["model=gpt2_medium", "adapter=lora", "rank=4"]
    assert "no yaml" in read_configuration(row | {"model": "GPT-9"}, load_readings()).reason
    assert "isn't here" in read_configuration(row | {"method": "GreatLoRA"}, load_readings()).reason
    assert "no count" in read_configuration(row | {"params_unit": "GB model size"}, load_readings()).reason


def test_every_note_explains_a_row_that_exists() -> None:
    counts = reported_counts()
    for entry in load_readings()["notes"]:
        same = pd.Series(True, index=counts.index)
        for key, value in entry["match"].items():
            same &= counts[key] == value
        assert same.any(), entry["match"]


def test_numbers_are_all_there_with_paper_table_and_trust() -> None:
    frame = reported()
    assert len(frame) == 1_581
    assert set(frame["trust"]) == {"primary", "secondary"}
    assert (frame[["paper", "table", "model", "method", "source"]] != "").all().all()


@pytest.fixture
def committed() -> pd.DataFrame:
    return pd.read_csv(COMMITTED, dtype={"rank": str, "params_reported": str}, keep_default_na=False)


def rows_with(committed: pd.DataFrame, **values: Any) -> pd.DataFrame:
    for key, value in values.items():
        committed = committed[committed[key] == value]
    return committed


def test_the_committed_table_has_every_reported_count(committed: pd.DataFrame) -> None:
    assert committed[COUNT].astype(str).to_dict("list") == reported_counts()[COUNT].to_dict("list")


def test_the_blog_post_s_seven_rows_are_equal_in_the_committed_table(committed: pd.DataFrame) -> None:
    blog = rows_with(committed, paper="LoRA blog post (IMDB, DistilBERT)")
    assert blog["verdict"].tolist() == [EQUAL] * 7


def test_the_claim_of_4_7_million_at_rank_4_is_different_with_its_arithmetic(committed: pd.DataFrame) -> None:
    (row,) = rows_with(committed, paper="LoRA summary page (AIMLSAGA)").to_dict("records")
    assert (row["verdict"], int(row["counted"])) == (DIFFERENT, 18_874_368)
    assert "4 x 12,288 x 96 = 4,718,592" in row["why"]


def test_every_row_that_is_not_equal_says_why(committed: pd.DataFrame) -> None:
    assert set(committed["verdict"]) == {EQUAL, ROUNDED, DIFFERENT, NOT_FIXED}
    assert (committed.loc[committed["verdict"].isin([DIFFERENT, NOT_FIXED]), "why"] != "").all()
    assert (committed.loc[committed["verdict"] != NOT_FIXED, "command"] != "").all()


def test_the_committed_texts_are_made_of_the_committed_csv(committed: pd.DataFrame) -> None:
    frame = committed.assign(counted=pd.to_numeric(committed["counted"]).astype("Int64"))
    assert COMMITTED.with_suffix(".tex").read_text() == latex(readable_counts(frame))


@pytest.mark.slow
def test_counting_again_gives_the_committed_table_byte_for_byte(tmp_path: Any) -> None:
    from src.tables import write_parameter_counts

    write_parameter_counts(tmp_path)
    for suffix in (".csv", ".md", ".tex"):
        committed = COMMITTED.with_suffix(suffix)
        assert (tmp_path / committed.name).read_bytes() == committed.read_bytes()


def test_the_folder_says_what_it_holds() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"README.md", "reported.csv", "readings.yaml"}


def test_latex_escapes_what_it_must_and_uses_booktabs() -> None:
    text = latex(pd.DataFrame({"paper": ["50 % of A_B & C^2"], "n": ["1"]}))
    assert r"50 \% of A\_B \& C\textasciicircum{}2 & 1 \\" in text
    assert [rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3


def test_labels_say_what_the_numbers_are() -> None:
    frame = reported()
    adalora = frame[frame["method"] == "adalora/llama-3.2-3B-rank32"]
    # Llama 3.2 3B's query is 3,072 x 3,072 and its value 1,024 x 3,072; AdaLoRA adds a number for each rank of each.
    assert {int(count) for count in adalora["params_reported"]} == {28 * (64 * (2 * 3072 + 3072 + 1024) + 2 * 64)}
    assert set(adalora["rank"]) == {"64 at first, 32 in the end"}
    mnli = frame[(frame["model"] == "RoBERTa-base") & (frame["method"] == "LoRA") & (frame["task"] == "MNLI")]
    readings = load_readings()
    of_paper = mnli[mnli["table"].str.startswith("Table 2") & (mnli["value"] == "87.5")]
    assert [readings["sets"][metric] for metric in of_paper["metric"]] == ["matched"]
    assert set(readings["sets"]) <= set(readings["metrics"])
