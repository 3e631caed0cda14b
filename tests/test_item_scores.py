"""The scores of items are stored with their predictions, and their mean is the run's score."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.analysis.item_scores import item_scores
from src.errors import UserError
from src.metrics import Score, score
from src.results.store import PREDICTIONS, read_record
from src.running.record import write_predictions
from src.training.scoring import Scored
from tests.conftest import ROOT

EXAMPLES: dict[str, tuple[list[Any], list[Any]]] = {
    "accuracy": ([1, 0, 2], [1, 1, 2]),
    "exact_match": (["a ", "b", "c"], ["a", "x", "c"]),
    "last_number": (["it is 4", "5", "none"], ["#### 4", "#### 6", "#### 1"]),
    "choice": (["answer1", "say answer2", "no"], ["answer1", "answer3", "answer2"]),
    "math_equivalence": ([r"\boxed{1/2}", r"\boxed{3}", "?"], [r"\boxed{0.5}", r"\boxed{4}", r"\boxed{1}"]),
    "math_verify": ([r"\boxed{1/4}", r"\boxed{3}", "?"], [r"\boxed{0.25}", r"\boxed{4}", r"\boxed{1}"]),
    "metamath": (["The answer is: 4 eggs", "5", "none"], ["4", "5", r"\boxed{1}"]),
    "rouge_1": (["a b", "c", "d"], ["a b", "c d", "e"]),
    "rouge_2": (["a b", "c", "d"], ["a b", "c d", "e"]),
    "rouge_l": (["a b", "c", "d"], ["a b", "c d", "e"]),
    "rouge_l_coco": (["a b", "c", "d"], ["a b", "c d", "e"]),
}


@pytest.mark.parametrize("metric", EXAMPLES)
def test_an_item_has_the_score_that_it_gets_alone(metric: str) -> None:
    predictions, references = EXAMPLES[metric]
    whole = score(metric, predictions, references)
    alone = [
        score(metric, [prediction], [right]).value for prediction, right in zip(predictions, references, strict=True)
    ]
    assert whole.items == pytest.approx(alone)
    assert whole.value == pytest.approx(np.mean(alone))
    assert not whole.more


def test_a_metric_that_is_no_mean_over_items_has_no_scores_of_items(tmp_path: Path) -> None:
    whole = score("matthews_correlation", [1, 0, 1, 1], [1, 0, 0, 1])
    assert whole.items == []
    write_predictions(tmp_path / PREDICTIONS, {"test": Scored([1, 0, 1, 1], [1, 0, 0, 1], whole)})
    assert item_scores(tmp_path, "test", "matthews_correlation") is None


def test_each_split_has_scores_of_its_items(tmp_path: Path) -> None:
    scored = {
        "validation": Scored(["x"], ["y"], Score("rouge_1", 0.25, items=[0.25])),
        "test": Scored(["x", "y"], ["y", "z"], Score("rouge_1", 0.5, items=[1.0, 0.0])),
    }
    write_predictions(tmp_path / PREDICTIONS, scored)
    for split, scored_split in scored.items():
        items = item_scores(tmp_path, split, "rouge_1")
        assert items is not None
        assert items.tolist() == scored_split.score.items
    assert item_scores(tmp_path, "train", "rouge_1") is None


def test_older_predictions_have_their_accuracy_by_comparing() -> None:
    folders = [path.parent for path in sorted((ROOT / "results/target_choice").rglob(PREDICTIONS))]
    assert len(folders) == 15
    for folder in folders[::5]:
        record = read_record(folder)
        assert record is not None
        for split, metric in record["metrics"].items():
            items = item_scores(folder, split, "accuracy")
            assert items is not None
            assert (len(items), items.mean()) == (metric["n"], pytest.approx(metric["value"]))
        assert item_scores(folder, "test", "f1") is None


def test_a_damaged_file_is_named_and_a_missing_one_has_no_scores(tmp_path: Path) -> None:
    assert item_scores(tmp_path, "test", "accuracy") is None
    pd.DataFrame({"split": ["test"], "score": [1.0]}).to_parquet(tmp_path / PREDICTIONS)
    whole = (tmp_path / PREDICTIONS).read_bytes()
    (tmp_path / PREDICTIONS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{PREDICTIONS} can't be read"):
        item_scores(tmp_path, "test", "accuracy")
