"""How likely the right answers are: against plain transformers on single items, hand-made numbers, and constraints."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from src.config.schema import Config
from src.errors import Diverged
from src.models.base_model import load_base
from src.results.schema import Record
from src.results.store import PREDICTIONS
from src.running.assemble import restored
from src.running.execute import execute
from src.running.prepare import prepare
from src.training import likelihood
from src.training.batches import encode
from src.training.device import find_device
from src.training.forgetting import general_text
from src.training.likelihood import among, choice_branches, of_classes
from src.training.scoring import Scoring
from tests.conftest import composed
from tests.test_glue import files_of, made_up, write_original

Make = Callable[..., Config]
FP32 = "trainer.precision=fp32"
TEXTS = ["", "a", "ab ba", "naïve Ωmega", "🙂 " * 3]
CHOICES = ("answer1", "answer2", "answer3")


def executed(config: Config, folder: Path) -> Record:
    folder.mkdir(parents=True, exist_ok=True)
    return execute(config, folder, lambda step, metrics: None)


def byte_tokenizer(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and of the merges given, which knows every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<pad>", "</s>", *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


BYTES, MERGED = byte_tokenizer([]), byte_tokenizer([("a", "b"), ("ab", "Ġ"), ("b", "a")])


def model_of(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    torch.manual_seed(5)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"num_key_value_heads": 3, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig.from_dict(sizes | {"attn_implementation": "eager"})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4.0)  # far from uniform
    return model


def scoring_with(tokenizer: PreTrainedTokenizerFast, batch_size: int = 3, **task: Any) -> Scoring:
    config = composed("model=tiny_llama", "task=reverse_words")
    asked = replace(config.task, max_length=200, **task)
    return Scoring(tokenizer, asked, find_device("fp32"), batch_size)


def found(scoring: Scoring, model: PreTrainedModel, rows: list[dict[str, Any]]) -> likelihood.Likelihood:
    outcome = scoring.likelihood(model, rows, encode(rows, scoring.tokenizer, scoring.task))
    assert outcome is not None
    return outcome


def plain_logits(model: Any, ids: list[int]) -> np.ndarray[Any, Any]:
    """The logits of one text alone, without padding."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double().numpy()  # type: ignore[no-any-return]


def plain_nats(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The negative log-likelihood of an answer's tokens behind a prompt."""
    logits = log_softmax(plain_logits(model, prompt + answer), axis=-1)
    return -float(sum(logits[len(prompt) - 1 + index, token] for index, token in enumerate(answer)))


def test_a_classifier_s_log_probability_is_that_of_its_saved_model(tmp_path: Path) -> None:
    parts = {file: made_up("cola", file, 30) for file in files_of("cola")}
    root = write_original(tmp_path / "root", "cola", parts)
    config = composed("task=cola", f"task.data_dir={root}", "task.validation_size=9", "adapter=lora", "rank=2",
                      "target=qv", "trainer=smoke", "forgetting=none", FP32, "trainer.max_steps=3")  # fmt: skip
    record = executed(config, tmp_path / "run")
    prepared = prepare(config, tmp_path / "run")
    model: Any = restored(config, prepared.base, tmp_path / "run/adapter.safetensors").model.eval()
    stored = pd.read_parquet(tmp_path / "run" / PREDICTIONS)
    for split in ("validation", "test"):
        numbers = stored[stored["split"] == split]["log_probability"].to_numpy(dtype=float)
        expected = []
        for row in prepared.task.data.splits[split]:
            inputs = prepared.base.tokenizer(
                row["text"], truncation=True, max_length=config.task.max_length, return_tensors="pt"
            )
            with torch.no_grad():
                logits = model(**inputs).logits[0].double().numpy()
            expected.append(log_softmax(logits)[row["label"]])
        assert numbers == pytest.approx(expected, abs=1e-5)
        secondary = record["metrics"][split]["secondary"]
        assert secondary["value"] == pytest.approx(np.mean(expected), abs=1e-5)
        assert {key: secondary[key] for key in ("name", "unit", "higher_is_better", "n")} == {
            "name": "log_probability", "unit": "nats", "higher_is_better": True, "n": len(expected),
        }  # fmt: skip


def test_the_mean_log_probability_is_minus_the_cross_entropy_and_a_number_has_none() -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 5
    labels = [0, 1, 2, 2, 1, 0, 1]
    outcome = of_classes(logits, [{"label": label} for label in labels])
    assert outcome is not None
    assert outcome.value == pytest.approx(-torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item())
    assert of_classes(logits[:, :1], [{"label": 0.5}] * 7) is None
    logits[3, 1] = torch.nan
    with pytest.raises(Diverged, match="the log-probabilities of 1 items"):
        of_classes(logits, [{"label": label} for label in labels])


def test_the_sets_of_a_split_count_the_same() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    outcome = of_classes(logits, [{"label": 1, "set": "a"}, {"label": 1, "set": "b"}, {"label": 1, "set": "b"}])
    assert outcome is not None
    each = [-math.log(1 + math.exp(-number)) for number in (1, 2, 3)]
    assert outcome.sets == pytest.approx({"a": each[0], "b": (each[1] + each[2]) / 2})
    assert outcome.value == pytest.approx((each[0] + (each[1] + each[2]) / 2) / 2)


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED], ids=["bytes", "merged"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_bits_per_byte_are_those_of_single_items_by_hand_for_any_tokenizer(tokenizer: Any, batch_size: int) -> None:
    model = model_of(tokenizer)
    rows = [{"prompt": f"say {index * 'x'}:", "answer": text} for index, text in enumerate(TEXTS)]
    outcome = found(scoring_with(tokenizer, batch_size), model, rows)
    expected = []
    for row in rows:
        prompt, both = (tokenizer(text)["input_ids"] for text in (row["prompt"], row["prompt"] + row["answer"]))
        expected.append(plain_nats(model, prompt, [*both[len(prompt) :], tokenizer.eos_token_id]))
    sizes = [0, 1, 5, 6 + 1 + 6, 15]
    assert outcome.columns["answer_nats"] == pytest.approx(expected, rel=1e-4)
    assert outcome.columns["answer_bytes"] == sizes
    assert outcome.value == pytest.approx(sum(expected) / math.log(2) / sum(sizes), rel=1e-4)
    assert (outcome.name, outcome.unit, outcome.higher_is_better) == ("bits_per_byte", "bits per byte", False)


def test_one_model_of_bytes_has_the_same_bits_per_byte_with_either_tokenizer() -> None:
    """Each byte and the end have the probability 1/512, a longer token that of its bytes: 9 bits each."""
    rows = [{"prompt": "q", "answer": text} for text in TEXTS]
    sizes = [len(row["answer"].encode()) for row in rows]
    for tokenizer in (BYTES, MERGED):
        names = tokenizer.convert_ids_to_tokens(list(range(2, len(tokenizer))))
        share = torch.tensor([0.0, 1 / 512, *(512.0 ** -len(name) for name in names)], dtype=torch.float64)
        share[tokenizer.pad_token_id] = 1 - share.sum()
        log_share = share.log().float()
        model: Any = model_of(tokenizer)
        model.lm_head.register_forward_hook(lambda layer, inputs, output, given=log_share: given.expand(output.shape))
        outcome = found(scoring_with(tokenizer), model, rows)
        assert outcome.value == pytest.approx(9 * (sum(sizes) + len(rows)) / sum(sizes), rel=1e-5)
        assert sum(filter(None, outcome.columns["answer_tokens"])) == (39 if tokenizer is BYTES else 36)


def constrained(model: Any, prompt: list[int], written: list[int], allowed: list[list[int]]) -> list[float]:
    """The log-probability of each allowed answer where only what one goes on with may be written, token by token."""
    if len(allowed) == 1:
        return [0.0]
    nexts = sorted({answer[len(written)] for answer in allowed})
    logits = plain_logits(model, prompt + written)[-1]
    numbers: dict[tuple[int, ...], float] = {}
    for token in nexts:
        rest = [answer for answer in allowed if answer[len(written)] == token]
        behind = constrained(model, prompt, [*written, token], rest)
        here = float(logits[token] - logsumexp([logits[other] for other in nexts]))
        numbers |= {tuple(answer): here + number for answer, number in zip(rest, behind, strict=True)}
    return [numbers[tuple(answer)] for answer in allowed]


def choices(right: str, names: tuple[str, ...], question: str = "x") -> dict[str, Any]:
    prompt = f"{question}? {'/'.join(names)}\n"
    return {"prompt": prompt, "answer": f"\nthe correct answer is {right}", "reference": right}


@pytest.mark.parametrize("names", [CHOICES, ("true", "false"), ("ending1", "ending2", "ending3", "ending4")])
@pytest.mark.parametrize("tokenizer", [BYTES, byte_tokenizer([("t", "r"), ("r", "2"), ("f", "a"), ("g", "1")])])
def test_a_choice_has_the_probability_of_being_written_among_those_allowed_and_all_sum_to_one(
    tokenizer: Any, names: tuple[str, ...]
) -> None:
    model, rows = model_of(tokenizer), [choices(name, names) for name in names]
    outcome = found(scoring_with(tokenizer, metric="choice"), model, rows)
    prompt = tokenizer(rows[0]["prompt"])["input_ids"]
    allowed = [[*tokenizer(row["answer"])["input_ids"], tokenizer.eos_token_id] for row in rows]
    numbers = outcome.columns["log_probability"]
    assert numbers == pytest.approx(constrained(model, prompt, [], allowed), abs=1e-4)
    assert sum(math.exp(number or 0.0) for number in numbers) == pytest.approx(1, abs=1e-5)
    assert len(set(numbers)) == len(names)


def test_choices_are_those_that_the_prompt_names_and_others_have_no_number() -> None:
    model = model_of(BYTES)
    rows = [
        choices("answer1", CHOICES),
        choices("answer1", CHOICES[:2]),
        choices("answer3", CHOICES[:2]),  # the right one isn't named
        choices("answer1", ("answer1",)),  # nor is another
        choices("answer1", CHOICES) | {"answer": "\nthe first"},  # the answer doesn't say it
    ]
    numbers = found(scoring_with(BYTES, metric="choice"), model, rows).columns["log_probability"]
    assert numbers[0] is not None
    assert numbers[1] is not None
    assert numbers[0] < numbers[1]  # a third choice takes its share
    assert numbers[2:] == [None, None, None]
    task = scoring_with(BYTES).task
    assert choice_branches([choices("answer1", CHOICES)], BYTES, replace(task, max_length=12)) == [[]]  # cut
    assert choice_branches([], BYTES, task) == []


def test_choices_that_are_the_same_tokens_have_no_number() -> None:
    tokenizer = load_base(
        composed("model=tiny_llama", "task=reverse_words").model, num_labels=0, attention="eager"
    ).tokenizer
    task = replace(scoring_with(BYTES).task, max_length=200)
    known, unknown = (
        {"prompt": "? answer1/answer2 ", "answer": f"{before}answer1", "reference": "answer1"} for before in ("", "\n")
    )
    lengths = [len(branches) for branches in choice_branches([known, unknown], tokenizer, task)]
    assert lengths == [len("answer1") + 1, 0]


def test_only_tokens_of_the_list_count_among_them() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [9.0, -torch.inf, 2.0]])
    expected = [1 - math.log(math.e + math.e**2), 0.0, 2 - math.log(math.e**9 + math.e**2)]
    assert among(logits, [[1, 2], [0], [2, 0]]).tolist() == pytest.approx(expected)


def test_an_answer_that_is_cut_or_has_unknown_characters_is_left_out_and_said(tiny: Make, tmp_path: Path) -> None:
    words = tmp_path / "words.jsonl"
    rows = [{"prompt": f"{index}>", "answer": answer} for index, answer in enumerate(["ab", "é", "x" * 40, "cd"] * 4)]
    words.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = executed(
        composed("model=tiny_llama", "task=own", "task.kind=generation", f"task.path={words}", "tracking=none",
                 "trainer=smoke", "adapter=lora", "rank=2", "task.max_length=20", "task.max_new_tokens=4", FP32,
                 "trainer.max_steps=2", f"results_dir={tmp_path}", f"cache_dir={tmp_path}", "task.validation_size=4"),
        tmp_path / "run",
    )  # fmt: skip
    stored = pd.read_parquet(tmp_path / "run" / PREDICTIONS)
    whole = stored["reference"].str.strip().isin(["ab", "cd"])
    assert (stored["answer_nats"].notna() == whole).all()
    assert (stored["answer_bytes"].notna() == whole).all()
    for split, of_split in stored.groupby("split", observed=True):
        missing, n = int(of_split["answer_nats"].isna().sum()), len(of_split)
        assert record["metrics"][str(split)]["secondary"]["n"] == n - missing
        assert any(f"{missing} of {n} {split} items have no bits per byte" in said for said in record["warnings"])


def test_rows_without_an_answer_have_none_and_empty_answers_alone_no_value() -> None:
    model, scoring = model_of(BYTES), scoring_with(BYTES)
    turns = [{"turns": ["hello", "again"], "reference": "{}"}]
    assert scoring.likelihood(model, turns, encode(turns, BYTES, scoring.task)) is None
    empty = found(scoring, model, [{"prompt": "q", "answer": ""}] * 2)
    assert (empty.value, empty.n) == (None, 2)


def test_an_answer_that_is_impossible_is_diverged() -> None:
    model: Any = model_of(BYTES)
    model.lm_head.register_forward_hook(lambda layer, inputs, output: output * torch.nan)
    with pytest.raises(Diverged, match="the losses of"):
        found(scoring_with(BYTES), model, [{"prompt": "q", "answer": "text"}])


def test_a_run_stores_both_splits_and_trials_the_one_that_they_score(tiny: Make, tmp_path: Path) -> None:
    full = executed(tiny("adapter=lora", "rank=2", "trainer.max_steps=2"), tmp_path / "full")
    trial = executed(tiny("adapter=lora", "rank=2", "trainer.max_steps=2", "trainer.score_test=false"), tmp_path / "t")
    assert {split: score["secondary"]["name"] for split, score in full["metrics"].items()} == dict.fromkeys(
        ("validation", "test"), "bits_per_byte"
    )
    assert trial["metrics"]["validation"]["secondary"] == full["metrics"]["validation"]["secondary"]
    stored = pd.read_parquet(tmp_path / "full" / PREDICTIONS)
    for split, score in full["metrics"].items():
        rows = stored[stored["split"] == split]
        ratio = rows["answer_nats"].sum() / math.log(2) / rows["answer_bytes"].sum()
        assert score["secondary"]["value"] == pytest.approx(ratio, rel=1e-5)


@pytest.mark.parametrize(("tokenizer", "text"), [(BYTES, "ab ba Ω " * 400), (MERGED, "ab ba Ω " * 900)])
def test_general_text_has_bits_for_each_byte_that_its_tokens_stand_for(
    tokenizer: Any, text: str, tmp_path: Path, tiny: Make
) -> None:
    (tmp_path / "text.txt").write_text(text)
    config = tiny(f"forgetting={tmp_path}/text.txt")
    base = replace(load_base(config.model, num_labels=0, attention="eager"), tokenizer=tokenizer)
    blocks = general_text(config, base)
    names = tokenizer.convert_ids_to_tokens(blocks.inputs[:, 1:].flatten().tolist())
    # A character of bytes is one of this tokenizer's names each; an edge within Ω may give or take one.
    assert blocks.bytes == pytest.approx(sum(map(len, names)), abs=len(blocks.inputs))


def test_forgetting_has_bits_per_byte_of_known_characters_alone(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("spell a word backwards " * 40)
    few = ["adapter=lora", "rank=2", "trainer.max_steps=2", "trainer.eval_limit=2", FP32]
    stored = executed(tiny(*few, f"forgetting={tmp_path}/known.txt"), tmp_path / "a")["forgetting"]
    assert stored["bytes"] == stored["tokens"]  # a character is a token
    for when in ("before", "after"):
        assert stored["bits_per_byte"][when] == pytest.approx(stored[when] / math.log(2))
    (tmp_path / "unknown.txt").write_text("spell \n a word backwards " * 40)
    other = executed(tiny(*few, f"forgetting={tmp_path}/unknown.txt"), tmp_path / "b")["forgetting"]
    assert "bits_per_byte" not in other
