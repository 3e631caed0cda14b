"""Metrics against formulas by hand, the numbers of the evaluators they follow, and the tasks' own data."""

import json
import math
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.errors import UserError
from src.metrics import FOLDER, metric_names, score
from src.metrics.math_text import is_equiv
from src.metrics.math_verify import math_verify
from tests.conftest import real_data


def value(name: str, predictions: list[Any], references: list[Any]) -> float:
    return score(name, predictions, references).value


def json_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in real_data(path).read_text(encoding="utf-8").splitlines()]


# --- all metrics ---


def test_a_folder_with_a_module_of_its_name_is_a_metric_and_nothing_else_is() -> None:
    folders = {path.name for path in FOLDER.iterdir() if (path / f"{path.name}.py").is_file()}
    assert set(metric_names()) == folders
    assert {"accuracy", "bleu", "choice", "f1", "last_number", "logical_form", "math_equivalence"} <= folders
    assert "inputs" not in folders


@pytest.mark.parametrize("name", metric_names())
def test_a_metric_says_what_it_is(name: str) -> None:
    import evaluate

    from src.metrics.base import Metric

    metric = evaluate.load(str(FOLDER / name))
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert re.search(r"\b1[89]\d\d\b|\b20\d\d\b", metric.citation), "a citation has a year"
    assert metric.info.citation == metric.citation
    assert "Higher is better." in metric.description.splitlines()[0]
    assert metric.higher_is_better


def test_a_folder_with_another_kind_of_metric_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/plain.py").write_text(
        "import datasets\nimport evaluate\n\n\nclass Plain(evaluate.Metric):\n"
        "    def _info(self):\n        return evaluate.MetricInfo(description='', citation='',\n"
        "            features=datasets.Features({'predictions': datasets.Value('int64')}))\n"
    )
    monkeypatch.setattr("src.metrics.FOLDER", tmp_path)
    with pytest.raises(TypeError, match=r"plain has a Plain.\nAllowed: a class on src.metrics.base.Metric"):
        score("plain", [1], [1])


def test_an_unknown_metric_is_refused_with_the_known_ones_nearest_first() -> None:
    with pytest.raises(UserError, match=r"task\.metric=acuracy (.|\n)*Allowed: accuracy, "):
        score("acuracy", [1], [1])


def test_predictions_and_references_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"length|Mismatch"):
        score("accuracy", [1, 0, 1], [1, 0])


def test_every_share_is_one_where_higher_is_better_and_nist_is_in_points() -> None:
    shares = [score("f1", [1, 0], [1, 1]), score("pearson", [1, 2], [1, 2]), score("rouge_l", ["a"], ["a"])]
    assert [(result.unit, result.higher_is_better) for result in shares] == [("share", True)] * 3
    nist = score("nist", ["a b"], ["a b"])
    assert (nist.unit, nist.higher_is_better) == ("points", True)


# --- classes and numbers ---


def test_accuracy_equals_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score

    predictions, references = np.random.default_rng(0).integers(0, 3, size=(2, 137)).tolist()
    assert value("accuracy", predictions, references) == pytest.approx(accuracy_score(references, predictions))


def test_exact_match_ignores_white_space_around_an_answer_and_nothing_else() -> None:
    predictions = ["abc", " abc\n", "ABC", "a bc", "", "abcd", "abc"]
    references = ["abc", "abc", "abc", "abc", "", "abc", "\tabc"]
    assert value("exact_match", predictions, references) == pytest.approx(4 / 7)  # items 1, 2, 5 and 7


def confusion(predictions: np.ndarray, references: np.ndarray) -> tuple[int, int, int, int]:
    """True and false positives, true and false negatives."""
    claimed, right = predictions == 1, references == 1
    return (claimed & right).sum(), (claimed & ~right).sum(), (~claimed & ~right).sum(), (~claimed & right).sum()


def test_f1_and_matthews_correlation_are_those_of_the_confusion_matrix() -> None:
    predictions, references = np.random.default_rng(1).integers(0, 2, size=(2, 131))
    references[:70] = predictions[:70]
    hit, false_alarm, rejected, missed = (int(count) for count in confusion(predictions, references))
    assert value("f1", predictions.tolist(), references.tolist()) == pytest.approx(
        2 * hit / (2 * hit + false_alarm + missed)
    )
    product = (hit + false_alarm) * (hit + missed) * (rejected + false_alarm) * (rejected + missed)
    assert value("matthews_correlation", predictions.tolist(), references.tolist()) == pytest.approx(
        (hit * rejected - false_alarm * missed) / math.sqrt(product)
    )


@pytest.mark.filterwarnings("ignore:A single label")
@pytest.mark.parametrize(
    ("predictions", "references", "f1", "matthews"),
    [
        ([1, 0, 1], [1, 0, 1], 1.0, 1.0),
        ([0, 1, 0], [1, 0, 1], 0.0, -1.0),
        ([1, 1, 1], [1, 0, 1], 0.8, 0.0),  # one class throughout
        ([0, 0, 0], [1, 0, 1], 0.0, 0.0),
        ([0, 0, 0], [0, 0, 0], 0.0, 0.0),  # 0/0
    ],
)
def test_f1_and_matthews_correlation_of_degenerate_predictions(
    predictions: list[int], references: list[int], f1: float, matthews: float
) -> None:
    assert value("f1", predictions, references) == pytest.approx(f1)
    assert value("matthews_correlation", predictions, references) == pytest.approx(matthews)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share their mean rank."""
    return np.array([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values])


def test_pearson_and_spearman_equal_their_formulas_ties_included() -> None:
    random = np.random.default_rng(2)
    references = random.integers(0, 11, 113) / 2.0  # many ties
    predictions = (references + random.normal(size=113)).round(1)
    assert value("pearson", predictions.tolist(), references.tolist()) == pytest.approx(
        correlation(predictions, references)
    )
    assert value("spearman", predictions.tolist(), references.tolist()) == pytest.approx(
        correlation(ranks(predictions), ranks(references))
    )


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_correlation_with_constant_predictions_is_zero_without_a_warning(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    assert value(name, [2.5, 2.5, 2.5], [1.0, 2.0, 4.0]) == 0.0
    assert not [warning for warning in recwarn if "nput" in str(warning.message)]


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_isnt_a_number_has_no_correlation(name: str, number: float) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        value(name, [0.1, number, 0.3], [1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="finite numbers"):
        value(name, [0.1, 0.2, 0.3], [1.0, 2.0, number])


# --- texts with several references ---

# Made up in the manner of E2E; the numbers of references differ.
OUTPUTS = [
    "The Vaults is a cheap pub near Café Adriatic, rated 5 out of 5.",
    "Cocum is a family-friendly coffee shop.",
    "the wrestlers offers food for £20-25",
]
REFERENCES = [
    [
        "The Vaults pub near Café Adriatic has a 5 star rating. Prices start at £30.",
        "Close to Café Adriatic, The Vaults is a cheap pub. It is rated 5 out of 5.",
        "Near Café Adriatic, there is a pub.",
    ],
    ["Cocum is a coffee shop, family-friendly and cheap."],
    ["The Wrestlers offers Italian food for £20-25.", "A meal at The Wrestlers, isn't it, costs about £20-25."],
]


def bleu_by_hand(outputs: list[list[str]], references: list[list[list[str]]]) -> float:
    """Papineni et al.'s BLEU-4 of tokenized texts."""
    hits, possible = [0] * 4, [0] * 4
    for words, item in zip(outputs, references, strict=True):
        for order in range(1, 5):
            counts, *rights = (
                Counter(tuple(text[at : at + order]) for at in range(len(text) - order + 1)) for text in [words, *item]
            )
            hits[order - 1] += sum(min(count, max(right[key] for right in rights)) for key, count in counts.items())
            possible[order - 1] += sum(counts.values())
    length = sum(map(len, outputs))
    nearest = [
        min((abs(len(ref) - len(words)), len(ref)) for ref in item)[1]
        for words, item in zip(outputs, references, strict=True)
    ]
    return (
        min(1, math.exp(1 - sum(nearest) / length))
        * math.prod(a / b for a, b in zip(hits, possible, strict=True)) ** 0.25
    )


def test_bleu_equals_a_bleu_by_hand() -> None:
    outputs = ["a b c d e f g", "g f e d a b c d", "a a a a a b"]
    references = [["a b c d e g", "b c d e f g h i"], ["g f e d"], ["a a b a a a", "a b", "c a a a a"]]
    by_hand = bleu_by_hand([text.split() for text in outputs], [[text.split() for text in item] for item in references])
    assert 0.3 < by_hand < 0.9
    assert value("bleu", outputs, references) == pytest.approx(by_hand)


def test_bleu_and_nist_equal_what_the_e2e_evaluator_gives() -> None:
    # tuetschek/e2e-metrics 1b9c4d8: BLEUScore and NISTScore of metrics/pymteval.py on these texts
    assert value("bleu", OUTPUTS, REFERENCES) == pytest.approx(0.5761356881022446)
    assert value("nist", OUTPUTS, REFERENCES) == pytest.approx(4.97090985539148)
    first = [item[0] for item in REFERENCES]
    assert value("bleu", OUTPUTS, first) == pytest.approx(0.2820433549410428)
    assert value("nist", OUTPUTS, first) == pytest.approx(3.370886423075297)


def test_nist_equals_its_formula_on_texts_of_four_words() -> None:
    # Each word is 2 of the references' 8, so worth 2 bits; of the pairs, "a b" is 1 of a's 2, so worth 1 bit.
    # Unigrams: 3 of 3 match. Pairs: only "a b" does. Three words where the references have four: the penalty.
    penalty = math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(3 / 4) ** 2)
    assert value("nist", ["a b d"], [["a b c d", "d c a c b"]]) > 0
    assert value("nist", ["a b d"], [["a b c d", "d c b a"]]) == pytest.approx((3 * 2 / 3 + 1 / 2) * penalty)


@pytest.mark.parametrize("name", ["bleu", "nist", "rouge_1", "rouge_2", "rouge_l", "rouge_l_coco"])
def test_a_text_alone_and_in_a_list_are_the_same_reference(name: str) -> None:
    first = [item[0] for item in REFERENCES]
    assert value(name, OUTPUTS, first) == value(name, OUTPUTS, [[text] for text in first]) > 0


@pytest.mark.parametrize("name", ["bleu", "nist", "rouge_1", "rouge_2", "rouge_l", "rouge_l_coco"])
def test_more_references_never_lower_a_score_and_empty_or_foreign_texts_have_none(name: str) -> None:
    assert value(name, OUTPUTS, REFERENCES) > value(name, OUTPUTS, [item[0] for item in REFERENCES])
    assert value(name, ["", "", ""], REFERENCES) == 0.0
    assert value(name, ["xyz", "xyz xyz", "xyz"], REFERENCES) == 0.0


@pytest.mark.parametrize("name", ["bleu", "rouge_1", "rouge_2", "rouge_l", "rouge_l_coco"])
def test_a_share_is_one_where_each_output_is_one_of_its_references(name: str) -> None:
    assert value(name, [item[-1] for item in REFERENCES], REFERENCES) == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "right"), [("rouge_1", 3 / 4), ("rouge_2", 1 / 3), ("rouge_l", 3 / 4)])
def test_rouge_counts_stems_and_takes_an_items_best_reference(name: str, right: float) -> None:
    # the cat were run; the cat run fast: three words of four, one pair of three, three words in order
    item = ["nothing of it", "The cat runs fast!"]
    assert value(name, ["the cats were running"], [item]) == pytest.approx(right)
    assert value(name, ["the cats were running", "", "zero"], [item, ["a"], ["one"]]) == pytest.approx(right / 3)


def test_rouge_l_of_words_out_of_order_is_below_rouge_1() -> None:
    assert value("rouge_1", ["d c b a"], ["a b c d"]) == 1.0
    assert value("rouge_l", ["d c b a"], ["a b c d"]) == pytest.approx(1 / 4)


def test_e2es_rouge_l_joins_the_best_precision_and_the_best_recall_of_two_references() -> None:
    # Common subsequences "a c d" and "a b": precision 3/4 by the first, recall 2/2 by the second.
    right = (1 + 1.2**2) * 3 / 4 / (1 + 1.2**2 * 3 / 4)
    assert value("rouge_l_coco", ["A b, c d."], [["a c d e f", "a b"]]) == pytest.approx(right)


def test_e2es_rouge_l_cuts_contractions_and_drops_punctuation() -> None:
    # is n't it a family-friendly place; it 's not a place: "it a place" is 3 of 6 and of 5
    right = (1 + 1.2**2) * (3 / 6) * (3 / 5) / (3 / 5 + 1.2**2 * 3 / 6)
    assert value("rouge_l_coco", ["Isn't it a family-friendly place?"], ["It's not - a (place)."]) == pytest.approx(
        right
    )


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l", "rouge_l_coco"])
@pytest.mark.parametrize(
    "text", ["Привет, как дела?", "Ένα μικρό γατάκι", "naïve Café señor", "ein schöner Tag über Öfen"]
)
def test_words_of_every_script_count(name: str, text: str) -> None:
    first, second, *_ = text.split()
    assert value(name, [text], [text]) == pytest.approx(1.0)
    assert 0 < value(name, [f"{first} {second}"], [text]) < 1
    assert value(name, ["a word of English"], [text]) == 0.0


def test_an_accent_is_the_same_however_it_is_encoded() -> None:
    assert value("rouge_1", ["Cafe\N{COMBINING ACUTE ACCENT} noir"], ["Café noir"]) == 1.0


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_on_ascii_texts_rouge_is_rouge_scores_own(kind: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    random = np.random.default_rng(3)
    words = [
        *("the", "Cats", "running", "ran", "U.S.", "it's", "well-known"),
        *("x_y", "10,000", "-", "", "Amanda:", "baked"),
    ]
    texts = [" ".join(random.choice(words, size=8)) for _ in range(40)]
    scorer = RougeScorer([kind], use_stemmer=True)
    right = [scorer.score(second, first)[kind].fmeasure for first, second in zip(texts, texts[::-1], strict=True)]
    assert score(f"rouge_{kind[5:].lower()}", texts, texts[::-1]).items == pytest.approx(right)


# --- WikiSQL ---

QUERY = "SELECT COUNT Player name FROM table WHERE School/Club = 'Butler CC (KS)' AND No. > 4"


@pytest.mark.parametrize(
    "prediction",
    [
        QUERY,
        QUERY.lower(),
        "  " + QUERY.replace(" ", " \n ") + "\t",
        "SELECT COUNT Player name FROM table WHERE No. > 4 AND School/Club = 'Butler CC (KS)'",
        "SELECT COUNT Player name FROM table WHERE No. > '4' AND No. > 4 AND School/Club = 'Butler CC (KS)'",
    ],
)
def test_queries_of_the_same_logical_form_are_equal(prediction: str) -> None:
    assert value("logical_form", [prediction], [QUERY]) == 1.0


@pytest.mark.parametrize(
    "prediction",
    [
        QUERY.replace("COUNT ", ""),
        QUERY.replace("COUNT", "MAX"),
        QUERY.replace("Player name", "Player"),
        QUERY.replace("No.", "No"),
        QUERY.replace(">", "<"),
        QUERY.replace("4", "4.0"),
        QUERY.replace("(KS)", ""),
        QUERY.partition(" AND")[0],
        QUERY.partition(" WHERE")[0],
        QUERY + " AND No. = 5",
        "",
        "SELECT",
        "SELECT a FROM table WHERE",
        "SELECT a FROM table WHERE b",
        "' AND ' = = " * 500,
    ],
)
def test_queries_of_another_form_or_none_are_wrong(prediction: str) -> None:
    assert value("logical_form", [prediction, QUERY], [QUERY, QUERY]) == 1 / 2


def test_a_quoted_value_may_hold_and_quotes_and_operators() -> None:
    reference = "SELECT a FROM table WHERE b = 'rock 'n' roll and x = y' AND c = 'it's'"
    reordered = "SELECT a FROM table WHERE c = 'it's' AND b = 'rock 'n' roll and x = y'"
    assert value("logical_form", [reordered], [reference]) == 1.0


def test_a_reference_that_is_no_query_is_refused() -> None:
    with pytest.raises(ValueError, match="'DELETE everything' is no query"):
        score("logical_form", [QUERY], ["DELETE everything"])


def sql_text(sql: dict[str, Any]) -> str:
    """A query of WikiSQL's data as text, columns by number."""
    aggregation = ["", "MAX ", "MIN ", "COUNT ", "SUM ", "AVG "][sql["agg"]]
    conditions = [f"col{column} {'=><'[operator]} '{text}'" for column, operator, text in sql["conds"]]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {aggregation}col{sql['sel']} FROM table{where}"


def logical_form(sql: dict[str, Any]) -> tuple[Any, ...]:
    """What WikiSQL's `Query.__eq__` compares, of the data's own structure."""
    conditions = {(column, operator, " ".join(str(text).lower().split())) for column, operator, text in sql["conds"]}
    return sql["sel"], sql["agg"], frozenset(conditions)


def test_on_wikisqls_questions_texts_are_equal_exactly_where_the_queries_are() -> None:
    queries = [item["sql"] for item in json_lines("wikisql/dev.jsonl")]
    backwards = [query | {"conds": query["conds"][::-1]} for query in queries]
    assert (
        value("logical_form", [sql_text(query) for query in backwards], [sql_text(query) for query in queries]) == 1.0
    )
    others = queries[1:] + queries[:1]
    same = sum(logical_form(one) == logical_form(other) for one, other in zip(queries, others, strict=True))
    shifted = value("logical_form", [sql_text(query) for query in others], [sql_text(query) for query in queries])
    assert 0 < same < len(queries) / 10
    assert shifted == pytest.approx(same / len(queries))


# --- GSM8K ---


@pytest.mark.parametrize(
    "prediction",
    [
        "18",
        "... makes 20-2=18.\n#### 18",
        "#### 18\n\nQuestion: and 3 more?\n#### 21",  # GSM8K reads its first mark
        "The answer is: 18",
        "The answer is 3. No, 4 more. THE ANSWER IS $18.00.",
        "The answer is:\n18 dollars",
        "#### 18 eggs\nThe answer is 7.",  # the mark before the last number
        "2 + 16 = 18.",
        "She earns $18.",
        "36/2",
        "It can't be read as #### but the last number can: 18",
        "#### +18.0%",
        "10-18",  # a minus behind a digit is none
    ],
)
def test_a_final_number_equal_to_the_reference_is_right_however_it_is_written(prediction: str) -> None:
    assert value("last_number", [prediction], ["#### 18"]) == 1.0


@pytest.mark.parametrize(
    "prediction",
    ["", "eighteen", "#### 18.5", "-18", "#### -$18", "18 of 19", "The answer is: 1, 18 or 8", "1/0", "9" * 5000],
)
def test_another_final_number_or_none_is_wrong(prediction: str) -> None:
    assert value("last_number", [prediction], ["18"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference"), [("$1,234.50", "1234.5"), ("-$1,000", "-1000"), (".5", "#### 0.50")]
)
def test_commas_dollars_signs_and_decimals_are_read_on_both_sides(prediction: str, reference: str) -> None:
    assert value("last_number", [prediction], [reference]) == value("last_number", [reference], [prediction]) == 1.0


# By LLM-Adapters' rule: without commas, the last digits with a dot and digits behind them, a minus directly before.
LAST_NUMBERS = {
    "The answer is 58 + 94 = 152 inches.": 152,
    "The answer is 58 and 94, which is 152.": 152,
    "The answer is 18. That is 6 more than 12.": 12,
    "The answer is: 18": 18,
    "18": 18,
    "-18": -18,
    "It fell to -5 degrees": -5,
    "x = -2.5": -2.5,
    "It costs $18.": 18,
    "It costs $1,080.": 1080,
    "1,234,567 people": 1234567,
    "1,234.50 dollars": 1234.5,
    "a 50% discount": 50,
    "12.5 %": 12.5,
    "It is 18.": 18,
    "It is 18.0.": 18,
    "18!": 18,
    "18?": 18,
    "(18)": 18,
    "**18**": 18,
    "`18`": 18,
    "18kg": 18,
    "18 kg, not 19 kg": 19,
    "1, 8 or 18": 18,
    "3,4": 34,
    "3, 4": 4,
    "between 10 and 18": 18,
    "10 - 18": 18,
    "20 - 2 = 18": 18,
    "20-2=18": 18,
    "2*9=18": 18,
    "at 12:30": 30,
    "room 4b": 4,
    "\\boxed{18}": 18,
    "$18$": 18,
    "18 (eighteen)": 18,
    "007": 7,
    "18\n\n": 18,
    "2 eggs\n3 eggs\n": 3,
    "no. 5, then no. 6": 6,
    "18 of them, $2 each, $36": 36,
    "5 < 6": 6,
    "100 %, i.e. all 7": 7,
    "+18": 18,
}
# What is read as it is written, and not as its last digits.
WRITTEN_NUMBERS = {
    "It fell to \N{MINUS SIGN}5": -5,
    "It fell to \N{EN DASH}5.5": -5.5,
    "-$5": -5,
    r"-\$5": -5,
    "\N{MINUS SIGN}€5": -5,
    "10-18": 18,
    "10\N{EN DASH}18": 18,
    "It took 1 1/2 hours": 1.5,
    "-1 1/2": -1.5,
    "1 and 1/2 hours": 1.5,
    "1½ hours": 1.5,
    "½": 0.5,
    "3/4": 0.75,
    r"\frac{3}{4}": 0.75,
    r"$-\dfrac34$": -0.75,
    r"1\frac{1}{2}": 1.5,
    "1.5e3": 1500,
    r"1.5 \times 10^{3}": 1500,
    "2 \N{MULTIPLICATION SIGN} 10^-2": 0.02,
    "10{,}000": 10000,
    "It is .5": 0.5,
}


@pytest.mark.parametrize(("text", "number"), [*LAST_NUMBERS.items(), *WRITTEN_NUMBERS.items()])
def test_the_last_number_is_that_of_llm_adapters_read_as_it_is_written(text: str, number: float) -> None:
    assert score("last_number", [text] * 2, [str(number), str(number + 1)]).items == [1.0, 0.0]


def test_a_long_number_is_not_rounded() -> None:
    assert value("last_number", ["9" * 40], ["9" * 39 + "8"]) == 0.0
    assert value("last_number", ["-" + "9" * 40], ["-" + "9" * 40]) == 1.0


def test_a_reference_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'none' holds no number"):
        score("last_number", ["18"], ["none"])


@pytest.mark.parametrize("part", ["test", "train"])
def test_gsm8ks_solutions_are_right_against_themselves_and_wrong_when_one_off(part: str) -> None:
    solutions = [item["answer"] for item in json_lines(f"gsm8k/{part}.jsonl")]
    numbers = [int(solution.split("#### ")[1].replace(",", "")) for solution in solutions]
    assert len(numbers) in (1319, 7473)
    assert value("last_number", solutions, solutions) == 1.0
    assert value("last_number", [f"Thus The answer is: {number}." for number in numbers], solutions) == 1.0
    assert value("last_number", [f"#### {number + 1}" for number in numbers], solutions) == 0.0


# --- MATH ---


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        (r"so $\boxed{\frac{1}{2}}$. The answer is: $\frac{1}{2}$", "0.5"),
        ("The answer is: 1. No, the answer is 1/2.\nDone", r"Thus $x = \boxed{\dfrac12}.$"),
        (r"first \boxed{3}, then \boxed{ \{1,2\} } holds", r"\{1, 2\}"),
        (r"\boxed 2$.", "2"),
        ("x = 7", "7"),
        (".5", r"\frac12"),
        (r"(-\infty, 3]", r"\left( -\infty, 3 \right]"),
        ("Evelyn", r"\text{Evelyn}"),
        ("10,000", r"10{,}000"),
        ("50%", r"50\%"),
        (r"\$50\%", "50"),
    ],
)
def test_answers_of_one_spelling_are_right(prediction: str, reference: str) -> None:
    assert value("math_equivalence", [prediction], [reference]) == 1.0


UNITS = ["dollars.", "weeks", "ml", "cups", "centimeters", "€", "square feet", "km/h", "apples", "cm^2", "яблок"]
NUMBERS_IN_WORDS = [
    *((f"The answer is: 35 {unit}", "35") for unit in UNITS),
    ("The answer is: **18**", "18"),
    ("The answer is: 18 (eighteen)", "18"),
    (r"\boxed{\text{The answer is } 5}", "5"),
    ("The answer is: €35", "35"),
    ("35ml", "35"),
    ("The answer is: **18** eggs.", "18"),
    ("the answer is `18`", "18"),
    (r"\boxed{35~\mathrm{cm}^2}", "35"),
    (r"\boxed{35\text{cm}}", "35"),
    ("The answer is: 35. That leaves five.", "35"),
    ("The answer is: -$5", "-5"),
    ("The answer is: \N{MINUS SIGN}5", "-5"),
    ("1/2 cups", r"\frac{1}{2}"),
    ("The answer is: 35 m", "35"),
    ("The answer is: USD 35", "35"),
    ("The answer is: 35 US dollars", "35"),
    ("The answer is: 35 people, so yes.", "35"),
    (r"The answer is: \(35\) km", "35"),
    ("1,080 dollars", "1080"),
]
NOT_FIVE = [
    *("5x", "5 x", "5xy", "5 pi", r"5\pi", "5!", "5! = 120", "5^2", "5 squared", "5 dozen", "5 million"),
    *("5 and a half", "5 (or six)", "5 or 6", "5, 6", "5 hours 6 minutes", "5 n", "5m", "minus 5", "not 5"),
    *("about 5 or so", "5 more than x", "5 - 2", "2*5", r"5\sqrt{3}"),
]
EQUAL_AS_ALGEBRA = [("1/4", "0.25"), ("3.0", "3"), ("x+1", "1+x")]
# By Math-Verify equal, each with what the metric's docstring says of it.
WRONGLY_EQUAL = [
    ("2516_8", "2516_9", "2516_8 is 2516_9"),
    (".0000672", ".0000673", ".0000672 is .0000673"),
    ("10, 4, -2", "4, 10, -2", '"10, 4, -2" is "4, 10, -2"'),
    ("A", "a", "A is a"),
    (r"15\text{cm}^2", r"15\text{cm}^3", r"15\text{cm}^2 is 15\text{cm}^3"),
]
OTHER_ANSWERS = [
    *EQUAL_AS_ALGEBRA,
    *((first, second) for first, second, _ in WRONGLY_EQUAL),
    (r"\{2,1\}", r"\{1,2\}"),
    (r"\frac{2}{4}", r"\frac{1}{2}"),
    ("15 cm^2", "15 cm^3"),
    ("[1,2]", "(1,2)"),
    *((text, "5") for text in NOT_FIVE),
    ("2**3", "23"),
    ("2*3*4", "234"),
]


@pytest.mark.parametrize(("prediction", "reference"), NUMBERS_IN_WORDS)
def test_words_around_a_number_are_no_algebra(prediction: str, reference: str) -> None:
    assert value("math_equivalence", [prediction], [reference]) == 1.0


@pytest.mark.parametrize(("prediction", "reference"), OTHER_ANSWERS)
def test_what_is_spelled_otherwise_or_is_more_than_the_number_is_another_answer(
    prediction: str, reference: str
) -> None:
    assert score("math_equivalence", [prediction, reference], [reference] * 2).items == [0.0, 1.0]


@pytest.mark.parametrize(("prediction", "reference"), EQUAL_AS_ALGEBRA)
def test_the_lenient_rule_is_that_of_algebra(prediction: str, reference: str) -> None:
    assert value("math_verify", [prediction], [reference]) == 1.0


@pytest.mark.parametrize(("prediction", "reference", "said"), WRONGLY_EQUAL)
def test_the_lenient_rule_is_another_metric_that_says_what_it_takes_for_equal(
    prediction: str, reference: str, said: str
) -> None:
    assert value("math_verify", [prediction], [reference]) == 1.0
    assert said in " ".join((math_verify.__doc__ or "").split())


# What `is_equiv` of hendrycks/math says, worked out from its rules; the last two are what it can't read.
IS_EQUIV = [
    (r"\dfrac12", r"\frac{1}{2}", True),
    (r"\tfrac 1 2", r"\frac{1}{2}", True),
    (r"\frac1{72}", r"\frac{1}{72}", True),
    (r"\frac{72}1", r"\frac{72}{1}", False),
    (r"\frac ab", r"\frac{a}{b}", True),
    ("0.5", r"\frac{1}{2}", True),
    (".5", "1/2", True),
    ("0.50", r"\frac{1}{2}", False),
    ("3/4", r"\frac{3}{4}", True),
    ("-3/4", r"\frac{-3}{4}", True),
    ("-3/4", r"-\frac{3}{4}", False),
    ("03/4", r"\frac{3}{4}", False),
    ("1/2/3", "1/2/ 3", True),
    (r"\sqrt2", r"\sqrt{2}", True),
    (r"2\sqrt 3", r"2\sqrt{3}", False),  # the space goes into the braces
    (r"\left(1, 2\right)", "(1,2)", True),
    ("(1,2)", "(1, 3)", False),
    (r"15\text{ cm}^2", "15", True),
    (r"15\text{ cm}^2", r"15\text{ cm}^3", True),  # all behind the unit goes
    (r"15\text{cm}", "15", False),
    (r"50\%", "50", True),
    ("50%", "50", False),
    (r"\$50", "50", True),
    ("$50$", "50", False),
    (r"90^\circ", "90", True),
    (r"90^{\circ}", "90", True),
    ("x=5", "5", True),
    ("xy=5", "5", True),
    ("xyz=5", "5", False),
    ("x=y=5", "5", False),
    ("1\\n2", "12", False),
    ("1\n2", "12", True),
    (r"1\!2", "12", True),
    ("1 2", "12", True),
    ("1,2", "12", False),
    ("A", "a", False),
    (r"\text{Evelyn}", "Evelyn", False),
    ("", "", True),
    ("", "0", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
    ("x/2", "x/2", True),
    ("x/2", "x / 2", False),
    (r"\sqrt", r"\sqrt ", False),
    (r"\text{ a} \text{ b}", r"\text{ a}  \text{ b}", False),
]


@pytest.mark.parametrize(("first", "second", "equal"), IS_EQUIV)
def test_maths_own_check_compares_spellings(first: str, second: str, equal: bool) -> None:
    assert is_equiv(first, second) == is_equiv(second, first) == equal


# --- MetaMath ---

# What `extract_answer_number` of MetaMath's eval_gsm8k.py reads, worked out from its rules.
METAMATH_GSM8K = {
    "The answer is: 18": 18,
    "... = 20.\n#### 20\nThe answer is: 18": 18,
    "The answer is: 3. No. The answer is: 18": 18,
    "The answer is: 18.": 18,
    "The answer is: 35 dollars.": 35,
    "The answer is: $35": 35,
    "The answer is: €35": 35,
    "The answer is: 35 €": 35,
    "The answer is: 35ml": 35,
    "The answer is: **35**": 35,
    "The answer is: 18 (eighteen)": 18,
    "The answer is: 18 or 20": 18,
    "The answer is: 58 + 94 = 152 inches.": 58,
    "The answer is: x = 5": 5,
    "The answer is: Lily has 5 apples": 5,
    "The answer is: \n5": 5,
    "The answer is: 1,080": 1080,
    "The answer is: 1,234,567": 1234,
    "The answer is: 18.0": 18,
    "The answer is: 17.6": 18,
    "The answer is: 17.4": 17,
    "The answer is: 18.5": 18,  # half to even
    "The answer is: 19.5": 20,
    "The answer is: .7": 1,
    "The answer is: 3/4": 1,
    "The answer is: 9/2": 4,
    "The answer is: 7/0": 7,
    "The answer is: 1 1/2": 1,
    "The answer is: 50%": 50,
    "The answer is: -5": -5,
    "The answer is: +5": 5,
    "The answer is: \N{MINUS SIGN}5": 5,
    "The answer is: -$5": 5,
    "The answer is: - 5": 5,
    "The answer is: 10-18": 10,
    "The answer is: 1e5": 1,
    r"The answer is: \boxed{18}": 18,
    r"The answer is: \frac{3}{4}": 3,
    "The answer is: 007": 7,
    "The answer is: 12:30": 12,
    "The answer is: 5th": 5,
    "The answer is: 5.": 5,
    "The answer is: 18\n\nThe end of 7 days": 18,
}


@pytest.mark.parametrize(("text", "number"), METAMATH_GSM8K.items())
def test_gsm8ks_answers_are_read_as_metamaths_evaluator_reads_them(text: str, number: int) -> None:
    references = [str(number), f"so it is\n#### {number}", str(number + 1), str(-number)]
    assert score("metamath", [text] * 4, references).items == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "text",
    [
        *("", "18", "#### 18", "The answer is 18", "the answer is: 18", "The answer is:18", "The answer is: "),
        *("The answer is: eighteen", "The answer is: /5", "The answer is: " + "9" * 5000),
    ],
)
def test_a_text_without_the_mark_or_a_number_behind_it_is_wrong(text: str) -> None:
    assert score("metamath", [text] * 2, ["18", r"\boxed{18}"]).items == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        (r"$\boxed{17}$. The answer is: 18", r"\boxed{18}", True),  # the mark, not the box
        (r"$\boxed{18}$.", r"\boxed{18}", False),
        ("The answer is: 18.", r"\boxed{18}", True),
        ("The answer is: 18.\nQuestion: and 3 more?", r"\boxed{18}", True),
        ("The answer is: 18\nQuestion: and 3 more?", r"\boxed{18}", False),
        ("The answer is: 35 dollars.", r"\boxed{35}", False),
        (r"The answer is: 35\text{ dollars}.", r"\boxed{35}", True),
        ("The answer is: 18 or 20", r"\boxed{18}", False),
        (r"The answer is: 2\sqrt3", r"\boxed{2\sqrt{3}}", True),
        (r"The answer is: 2\sqrt3", "2", True),  # a plain number is GSM8K's
        (r"The answer is: 2\sqrt3", r"\boxed{2}", False),
        (r"The answer is: 1/2", r"\frac{1}{2}", True),
        ("The answer is: A", r"\boxed{a}", False),
    ],
)
def test_maths_answers_are_read_as_metamaths_evaluator_reads_them(text: str, reference: str, right: bool) -> None:
    assert score("metamath", [text], [reference]).items == [float(right)]


# --- Math-Verify ---


@pytest.mark.parametrize(
    "prediction",
    [
        "",
        r"\boxed{",
        r"\boxed",
        r"\boxed{}",
        "The answer is",
        r"\frac{" * 50,
        "1/0",
        "\x00",
        "2" * 10000,
        "nothing",
        "It says $(1,2)$ but is prose",
        "2,1",
    ],
)
def test_garbage_is_wrong_and_no_exception(prediction: str) -> None:
    for metric in ("math_equivalence", "math_verify"):
        assert value(metric, [prediction, "(1, 2)"], ["(1,2)", "(1,2)"]) == 1 / 2


def test_a_number_in_prose_without_a_mark_is_no_answer() -> None:
    predictions = ["If 2^8=4^x, what is the value of x? It is $4$", "is 4", "so the answer is 4", r"it is \boxed{4}!"]
    assert value("math_equivalence", predictions, ["4"] * 4) == 2 / 4


def test_outside_the_main_thread_math_verify_is_refused_as_nothing_could_stop_it() -> None:
    refused = []

    def compare() -> None:
        with pytest.raises(ValueError, match="threaded environment"):
            score("math_verify", ["1"], ["2"])
        refused.append(True)

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    assert refused


@pytest.mark.slow
def test_a_comparison_without_end_is_stopped() -> None:
    assert value("math_verify", ["9^{9^{9^9}}", "7"], ["7", "7"]) == 1 / 2


def test_math_500s_answers_equal_their_solutions_and_wrong_ones_do_not() -> None:
    items = json_lines("math/math500_test.jsonl")
    answers, solutions = [item["answer"] for item in items], [item["solution"] for item in items]
    assert len(items) == 500
    assert value("math_equivalence", solutions, answers) == value("math_equivalence", answers, solutions) == 1.0
    assert value("math_equivalence", [f"1+{answer}" for answer in answers], answers) == 0.0  # behind a unit, all goes


def test_math_500s_answers_equal_themselves_written_otherwise() -> None:
    answers = [item["answer"] for item in json_lines("math/math500_test.jsonl")]
    rewritten = [answer.replace(r"\frac", r"\dfrac").replace(r"\left", "").replace(r"\right", "") for answer in answers]
    assert sum(answer != right for answer, right in zip(rewritten, answers, strict=True)) > 50
    assert value("math_equivalence", [f"The answer is: ${answer}$." for answer in rewritten], answers) == 1.0


# --- commonsense tasks ---


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("the correct answer is answer3", "answer3", True),
        ("answer1, not answer3", "answer3", False),  # the first counts
        ("true answer3 option1", "answer3", True),  # of the reference's kind
        ("answer6 answer12", "answer1", True),  # answer6 is no choice, answer12 begins with one
        ("False. false", "false", True),
        ("True", "true", False),  # lower case only, as in LLM-Adapters
        ("untrue", "true", True),  # and anywhere
        ("solution3 solution2", "solution2", True),
        ("ending4", "ending4", True),
        ("option 2", "option2", False),
        ("", "option1", False),
    ],
)
def test_the_first_choice_named_of_the_references_kind_counts(prediction: str, reference: str, right: bool) -> None:
    assert value("choice", [prediction], [reference]) == float(right)


def test_a_reference_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="'True' is no choice"):
        score("choice", ["true"], ["True"])


@pytest.mark.parametrize(
    "task", ["boolq", "piqa", "social_i_qa", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa"]
)
def test_the_commonsense_tasks_outputs_are_right_and_other_choices_wrong(task: str) -> None:
    items = json.loads(real_data(f"commonsense/{task}/test.json").read_text(encoding="utf-8"))
    outputs, answers = [item["output"] for item in items], [item["answer"] for item in items]
    assert value("choice", outputs, answers) == 1.0
    other = {"true": "false", "false": "true"}
    wrong = [other.get(answer) or answer[:-1] + ("2" if answer[-1] == "1" else "1") for answer in answers]
    assert value("choice", wrong, answers) == 0.0
