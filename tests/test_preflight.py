"""A model, its tokenizer, a task and a method: texts alone and padded have the same scores, or the run is refused."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from src.adapters.inject import InjectedModel
from src.config.schema import Config, ModelConfig, RoleConfig, TaskConfig
from src.errors import UserError
from src.exporting.export import export
from src.metrics import Score
from src.models.positions import room
from src.models.weights import local_checksum
from src.results.store import ADAPTER
from src.running import preflight as module
from src.running.assemble import fresh_model, inject_empty
from src.running.execute import execute
from src.running.lifecycle import run
from src.running.preflight import preflight
from src.running.prepare import Prepared, prepare
from src.running.sweep import Plan
from src.tasks.base import TaskData
from src.training.batches import IGNORED, Example, encode
from src.training.scoring import Scoring
from tests.conftest import TINY, composed
from tests.tiny_models import SIZES, WORDS, of_folder, saved, tiny_model, tiny_tokenizer

LETTERS = ["a b c d e f g h", "a", "b c", "x y z a b", "k k k k k k k k k k k k"]
HEADS = {
    "distilbert": ["pre_classifier", "classifier"], "deberta": ["pooler", "classifier"],
    "deberta-v2": ["pooler", "classifier"], "modernbert": ["head", "classifier"],
    "bart": ["classification_head"], "t5": ["classification_head"],
    "bert": ["classifier"], "roberta": ["classifier"], "albert": ["classifier"],
}  # fmt: skip
DECODERS = [kind for kind in SIZES if kind not in HEADS]
ROUNDING = 1e-4  # float32 moves scores by less, on whatever machine, and an error in padding by a hundred times more


def given(source: Any, texts: list[str], pairs: bool = False, turns: bool = False) -> TaskData:
    """A task of these texts, loaded by its name: classes by turns, or answers of one to three letters."""
    if source.task.architecture == "classifier":
        second = {"text_pair": "z y"} if pairs else {}
        rows: list[dict[str, Any]] = [{"text": text, **second, "label": i % 3} for i, text in enumerate(texts)]
        return TaskData({"train": rows, "validation": rows, "test": rows}, ["0", "1", "2"])
    rows = [{"prompt": text, "answer": " q r s"[: 2 * (1 + i % 3)]} for i, text in enumerate(texts)]
    spoken = [{"turns": [text, text], "reference": ""} for text in texts]
    return TaskData({"train": rows, "validation": rows, "test": spoken if turns else rows}, [])


def task_of(architecture: str, max_length: int = 20, new_tokens: int = 3, **options: Any) -> TaskConfig:
    written = 0 if architecture == "classifier" else new_tokens
    return TaskConfig(
        name="letters", loader="tests.test_preflight.given", architecture=architecture,
        metric="accuracy" if architecture == "classifier" else "judge_rating" if "turns" in options else "exact_match",
        max_length=max_length, max_new_tokens=written, options={"texts": LETTERS, **options},
    )  # fmt: skip


@lru_cache(maxsize=8)
def plain_config(adapter: str, rank: int) -> Config:
    return composed(*TINY, "forgetting=none", "trainer.precision=fp32", f"adapter={adapter}", f"rank={rank}")


def config_of(model: ModelConfig, task: TaskConfig, adapter: str = "full", rank: int = 3) -> Config:
    return replace(plain_config(adapter, rank), model=model, task=task)


def run_of(config: Config) -> tuple[Prepared, InjectedModel]:
    """A run ready to be trained, with what its method adds away from zero."""
    run = prepare(config, Path("unused"))
    injected = inject_empty(config, fresh_model(config, run.base))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in injected.model.named_parameters():
        if name in injected.added:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return run, injected


def found(config: Config) -> dict[str, Any]:
    return preflight(*run_of(config))


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as refused:
        found(config)
    assert len(str(refused.value).splitlines()) <= 3
    return str(refused.value)


def folder_of(path: Path, kind: str, architecture: str, tokenizer: Any = None, **changes: Any) -> ModelConfig:
    """A tiny pre-trained model in a folder; a classifier's head isn't part of it."""
    stored = "AutoModel" if architecture == "classifier" else architecture
    folder = saved(path, tiny_model(kind, stored, **changes), tokenizer or tiny_tokenizer("<s> $A </s>"))
    return of_folder(folder, architecture, head=HEADS.get(kind, ["score"]) if architecture == "classifier" else [])


# ---- alone and padded


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "modernbert", "t5", "gpt2", "opt", "llama"])
def test_a_classifiers_texts_have_the_same_scores_alone_and_padded(tmp_path: Path, kind: str) -> None:
    facts = found(config_of(folder_of(tmp_path, kind, "classifier"), task_of("classifier")))
    assert 0 <= facts["padding"] < ROUNDING


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "qwen2"])
@pytest.mark.parametrize("adapter", ["full", "peft/prompt_tuning", "peft/prefix_tuning"])
def test_a_language_models_texts_have_the_same_scores_alone_and_padded(tmp_path: Path, kind: str, adapter: str) -> None:
    facts = found(config_of(folder_of(tmp_path, kind, "causal_lm"), task_of("causal_lm"), adapter))
    assert 0 <= facts["padding"] < ROUNDING
    assert facts["virtual_tokens"] == (0 if adapter == "full" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["<s> $A </s>", "$A </s>", "<s> $A"])
@pytest.mark.parametrize("kind", [kind for kind in SIZES if kind not in ("bart", "t5")])
@pytest.mark.parametrize("adapter", ["full", "peft/prompt_tuning"])
@pytest.mark.parametrize("pad", [None, "<pad>"])
def test_every_architecture_scores_alone_and_padded_alike(
    tmp_path: Path, ends: str, kind: str, adapter: str, pad: str | None
) -> None:
    tokenizer = tiny_tokenizer(ends, pad_token=pad)
    architectures = ["classifier", *(["causal_lm"] if kind in DECODERS else [])]
    for architecture in architectures:
        config = config_of(
            folder_of(tmp_path / architecture, kind, architecture, tokenizer), task_of(architecture), adapter
        )
        # MPT's bias grows with the distance, and padding stands between virtual tokens and the text.
        if (kind, architecture, adapter) == ("mpt", "causal_lm", "peft/prompt_tuning"):
            assert "padding on the left changes what it computes" in refusal(config)
        else:
            assert found(config)["padding"] < ROUNDING


def test_texts_of_one_length_are_tried_at_two(tmp_path: Path) -> None:
    task = replace(task_of("classifier"), options={"texts": ["a b c d", "e f g h"]})
    run, _ = run_of(config_of(folder_of(tmp_path, "bert", "classifier"), task))
    lengths = [len(text["input_ids"]) for text in module._of_different_lengths(run.examples["train"])]
    assert lengths == [6, 6, 4]


def blind(model: nn.Module) -> None:
    """Make a model see no longer what is padding."""
    model.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )


@pytest.mark.parametrize(("kind", "adapter"), [("bert", "full"), ("roberta", "peft/prompt_tuning")])
def test_a_model_that_reads_its_padding_is_refused_with_the_difference(tmp_path: Path, kind: str, adapter: str) -> None:
    config = config_of(folder_of(tmp_path, kind, "classifier"), task_of("classifier"), adapter)
    run, injected = run_of(config)
    blind(injected.model if adapter == "full" else injected.model.get_base_model())  # type: ignore[operator]
    with pytest.raises(UserError, match=r"padding on the right changes what it computes: texts of 14, 7, 3 tokens"):
        preflight(run, injected)
    alone = replace(config.trainer, batch_size=1, eval_batch_size=1)
    assert preflight(replace(run, config=replace(config, trainer=alone)), injected)["padding"] is None


def test_a_language_model_that_counts_the_padding_on_its_left_is_refused(tmp_path: Path) -> None:
    said = refusal(config_of(folder_of(tmp_path, "bart", "causal_lm"), task_of("causal_lm")))
    assert "padding on the left changes what it computes" in said
    assert said.endswith("set trainer.batch_size=1 and trainer.eval_batch_size=1.")


def test_an_encoder_that_is_given_as_a_language_model_sees_its_answers_and_is_refused(tmp_path: Path) -> None:
    model = folder_of(tmp_path, "bert", "causal_lm")
    assert "reads ahead" in refusal(config_of(model, task_of("causal_lm")))
    config = config_of(model, task_of("causal_lm"))
    alone = replace(config, trainer=replace(config.trainer, batch_size=1, eval_batch_size=1))
    assert "reads ahead" in refusal(alone)
    decoder = replace(model, config={"is_decoder": True})
    assert found(replace(alone, model=decoder))["padding"] is None


def test_a_model_that_fails_at_the_texts_is_refused_in_a_line(tmp_path: Path) -> None:
    """BART's and T5's classifiers read the end token, which this tokenizer doesn't put."""
    said = refusal(config_of(folder_of(tmp_path, "t5", "classifier", tiny_tokenizer("$A")), task_of("classifier")))
    assert said.startswith("model=tiny doesn't run on the texts of task=letters with adapter=full: ")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, number: float) -> None:
    config = config_of(folder_of(tmp_path, "bert", "classifier"), task_of("classifier"))
    run, injected = run_of(config)
    with torch.no_grad():
        injected.model.get_parameter("classifier.weight").fill_(number)
    with pytest.raises(UserError, match="by nan% of the largest"):
        preflight(run, injected)


def in_bfloat16(config: Config) -> Config:
    return replace(
        config, model=replace(config.model, dtype="bfloat16"), trainer=replace(config.trainer, precision="bf16")
    )


def test_a_model_in_bfloat16_is_tried_too(tmp_path: Path) -> None:
    config = config_of(folder_of(tmp_path, "llama", "causal_lm"), task_of("causal_lm"), "peft/prompt_tuning")
    assert 0 <= found(in_bfloat16(config))["padding"] < module.COARSE_TOLERANCE


def test_weights_of_half_the_bits_are_held_to_their_own_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models as small as these differ by less: the difference is given."""
    fine = config_of(folder_of(tmp_path / "fine", "bert", "classifier"), task_of("classifier"))
    coarse = [in_bfloat16(config_of(folder_of(tmp_path / f, "bert", "classifier"), fine.task)) for f in "ab"]
    monkeypatch.setattr(module, "_difference", lambda alone, together: 0.05)
    assert "by 5.0% of the largest" in refusal(fine)
    assert found(coarse[0])["padding"] == 0.05
    monkeypatch.setattr(module, "_difference", lambda alone, together: 0.15)
    assert "by 15.0% of the largest" in refusal(coarse[1])


def test_a_sweep_over_ranks_and_seeds_tries_a_method_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, plain = [], module._of_different_lengths

    def counted(texts: list[Example]) -> list[Example]:
        tried.append(len(texts))
        return plain(texts)

    monkeypatch.setattr(module, "_of_different_lengths", counted)
    model, task = folder_of(tmp_path, "llama", "causal_lm"), task_of("causal_lm")
    for rank in (2, 3):
        for seed in (0, 1):
            config = replace(config_of(model, task, "peft/prompt_tuning", rank), seed=seed)
            assert found(config)["virtual_tokens"] == rank
    found(config_of(model, task, "full"))
    assert len(tried) == 2


# ---- classifiers that read the last token


def last_token_scores(model: Any, ids: list[int]) -> Tensor:
    """What a decoder's own layers say of a text's last token, without transformers' pooling."""
    hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state
    scores: Tensor = (hidden[0, -1] @ model.score.weight.T).detach()
    return scores


@pytest.mark.parametrize(
    ("kind", "ends"), [("llama", "<s> $A"), ("llama", "$A </s>"), ("gpt2", "$A </s>"), ("opt", "</s> $A")]
)
@pytest.mark.parametrize("config_pad", [0, None])
@pytest.mark.parametrize("special", [{"pad_token": None}, {"pad_token": None, "unk_token": None}, {}])
def test_a_decoder_classifies_by_the_last_token_in_batches_of_any_size(
    tmp_path: Path, kind: str, ends: str, config_pad: int | None, special: dict[str, Any]
) -> None:
    model = folder_of(tmp_path, kind, "classifier", tiny_tokenizer(ends, **special), pad_token_id=config_pad)
    run, injected = run_of(config_of(model, task_of("classifier")))
    alone, together = (
        replace(run.scoring, batch_size=size).score(injected.model, run.task.data.splits["test"], run.examples["test"])  # type: ignore[arg-type]
        for size in (1, 128)
    )
    expected = [last_token_scores(injected.model, row["input_ids"]) for row in run.examples["test"]]
    assert alone.predictions == together.predictions == [int(scores.argmax()) for scores in expected]
    padding = run.base.tokenizer.pad_token_id
    assert run.base.module.config.pad_token_id == padding
    assert padding is not None
    assert padding < len(WORDS)


def test_a_copy_of_a_classifier_reads_its_own_masks(tmp_path: Path) -> None:
    model = folder_of(tmp_path, "llama", "classifier", tiny_tokenizer("$A </s>", pad_token=None))
    run, _ = run_of(config_of(model, task_of("classifier")))
    first, second = (run.base.fresh_copy(["score"], torch.Generator().manual_seed(0)).eval() for _ in range(2))
    ids, mask = torch.tensor([[5, 6, 2], [7, 2, 2]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    expected = torch.stack([last_token_scores(first, [5, 6, 2]), last_token_scores(first, [7, 2])])
    first(input_ids=ids[:1, :1], attention_mask=torch.ones(1, 1, dtype=torch.long))
    for model in (second, first):
        assert torch.allclose(model(input_ids=ids, attention_mask=mask).logits, expected, atol=1e-6)


# ---- tokens


@pytest.mark.parametrize("ends", ["<s> $A", "<s> $A </s>", "$A </s>", "$A </s> </s>", "$A"])
def test_a_prompt_has_no_end_and_an_answer_one(ends: str) -> None:
    tokenizer = tiny_tokenizer(ends)
    begin = [1] if ends.startswith("<s>") else []
    a, b, x = (WORDS.index(letter) for letter in "abx")
    (example,) = encode([{"prompt": "a b", "answer": " x"}], tokenizer, task_of("causal_lm"))
    assert example["prompt"] == [*begin, a, b]
    assert example["input_ids"] == [*begin, a, b, x, 2]
    assert example["labels"] == [*[IGNORED] * len(example["prompt"]), x, 2]


def test_an_end_of_another_kind_is_no_part_of_a_prompt_either() -> None:
    tokenizer = tiny_tokenizer("<s> $A <pad>")  # as BERT's tokenizer puts [SEP] behind every text
    (example,) = encode([{"prompt": "a", "answer": " x"}], tokenizer, task_of("causal_lm"))
    assert example["prompt"] == [1, WORDS.index("a")]
    assert example["input_ids"] == [1, WORDS.index("a"), WORDS.index("x"), 2]


def test_an_end_that_the_text_itself_has_stays() -> None:
    (example,) = encode([{"prompt": "a </s> b </s>", "answer": " x"}], tiny_tokenizer("$A </s>"), task_of("causal_lm"))
    assert example["prompt"] == [WORDS.index("a"), 2, WORDS.index("b"), 2]


@pytest.mark.parametrize("ends", ["<s> $A", "$A"])
def test_a_begin_that_a_template_wrote_is_not_doubled(ends: str) -> None:
    (example,) = encode([{"prompt": "<s> a", "answer": " x"}], tiny_tokenizer(ends), task_of("causal_lm"))
    assert example["prompt"] == [1, WORDS.index("a")]


def test_what_is_said_in_a_conversation_is_not_ended_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder_of(tmp_path, "llama", "causal_lm", tiny_tokenizer("<s> $A </s>"))
    run, injected = run_of(config_of(model, task_of("causal_lm", turns=True)))
    seen: list[list[int]] = []

    def written(self: Scoring, model: Any, prompts: list[list[int]]) -> list[str]:
        seen.extend(prompts)
        return ["q"] * len(prompts)

    monkeypatch.setattr(Scoring, "_generate", written)
    monkeypatch.setattr("src.training.scoring.score", lambda name, *args, **kwargs: Score(name, 0.0))
    run.scoring.score(injected.model, run.task.data.splits["test"], run.examples["test"])  # type: ignore[arg-type]
    assert len(seen) == 2 * len(LETTERS)
    assert all(prompt[0] == 1 and 2 not in prompt for prompt in seen)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_sides_that_a_tokenizer_prefers_change_nothing(tmp_path: Path, side: str) -> None:
    tokenizer = tiny_tokenizer("<s> $A </s>")
    tokenizer.padding_side = tokenizer.truncation_side = side
    run, injected = run_of(config_of(folder_of(tmp_path, "bert", "classifier", tokenizer), task_of("classifier", 4)))
    assert run.examples["test"][0]["input_ids"] == [1, WORDS.index("a"), WORDS.index("b"), 2]
    assert preflight(run, injected)["padding"] < ROUNDING


def test_texts_longer_than_the_tokenizer_expects_are_cut_at_max_length_alone(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("<s> $A </s>")
    tokenizer.model_max_length = 5
    run, _ = run_of(config_of(folder_of(tmp_path, "bert", "classifier", tokenizer), task_of("classifier", 9)))
    assert max(len(row["input_ids"]) for row in run.examples["test"]) == 9


@pytest.mark.parametrize("architecture", ["classifier", "causal_lm"])
def test_a_text_without_tokens_is_one_token(tmp_path: Path, architecture: str) -> None:
    model = folder_of(tmp_path, "gpt2", architecture, tiny_tokenizer("$A"))
    run, injected = run_of(config_of(model, task_of(architecture, texts=["a b", "", "c"])))
    example = run.examples["test"][1]
    assert example["prompt" if architecture == "causal_lm" else "input_ids"] == [1]
    assert preflight(run, injected)["padding"] < ROUNDING


# ---- ids


@pytest.mark.parametrize(
    ("kind", "architecture"), [("llama", "classifier"), ("llama", "causal_lm"), ("bert", "classifier")]
)
def test_padding_beyond_the_vocabulary_is_replaced_and_said(tmp_path: Path, kind: str, architecture: str) -> None:
    tokenizer = tiny_tokenizer("<s> $A </s>", pad_token=None)
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["[X]", "[Y]", "[Z]"]})
    tokenizer.pad_token = "[Z]"
    assert tokenizer.pad_token_id >= 32
    run, injected = run_of(config_of(folder_of(tmp_path, kind, architecture, tokenizer), task_of(architecture)))
    stand_in = "<unk>" if architecture == "classifier" else "</s>"
    assert run.base.tokenizer.pad_token == stand_in
    assert run.base.notes == [f"model=tiny has no embedding for [Z]: padded with {stand_in}"]
    assert preflight(run, injected)["padding"] < ROUNDING


@pytest.mark.parametrize(("kind", "mended"), [("gpt2", True), ("llama", False), ("bert", False)])
def test_a_config_whose_padding_is_beyond_the_vocabulary_is_mended_or_refused(
    tmp_path: Path, kind: str, mended: bool
) -> None:
    """Most models can't even be built with it."""
    model = folder_of(tmp_path, kind, "classifier")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": 32}))
    config = config_of(model, task_of("classifier"))
    if mended:
        assert found(config)["padding"] < ROUNDING
    else:
        assert "Padding_idx must be within num_embeddings" in refusal(config)
        assert found(replace(config, model=replace(model, config={"pad_token_id": 0})))["padding"] < ROUNDING


def test_a_token_beyond_the_vocabulary_is_refused_by_its_name(tmp_path: Path) -> None:
    model = folder_of(tmp_path, "bert", "classifier", vocab_size=25)
    said = refusal(config_of(model, task_of("classifier")))
    assert "gives task=letters the token z of id 29; the model has embeddings for 25 tokens." in said


def without_an_end(path: Path, config_end: Any) -> Config:
    """A language model whose tokenizer has no token that ends a text, and its config perhaps one."""
    tokenizer = tiny_tokenizer("<s> $A", eos_token=None)
    return config_of(folder_of(path, "llama", "causal_lm", tokenizer, eos_token_id=config_end), task_of("causal_lm"))


@pytest.mark.parametrize("config_end", [None, 99])
def test_a_language_model_needs_a_token_that_ends_its_texts(tmp_path: Path, config_end: int | None) -> None:
    said = refusal(without_an_end(tmp_path, config_end))
    assert "has no token that ends a text (eos_token: None, id None of 32)" in said


@pytest.mark.parametrize("config_end", [2, [2, 5]])
def test_the_configs_end_stands_in_for_the_tokenizers(tmp_path: Path, config_end: int | list[int]) -> None:
    run, _ = run_of(without_an_end(tmp_path, config_end))
    assert all(example["input_ids"][-1] == 2 for example in run.examples["train"])
    assert "texts end with </s>" in run.base.notes[0]


def test_a_tokenizer_without_any_special_token_needs_a_padding_id_of_the_config(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(["pad_token", "eos_token", "bos_token", "unk_token"])
    model = folder_of(tmp_path / "a", "bert", "classifier", tiny_tokenizer("$A", **nothing))
    assert found(config_of(model, task_of("classifier")))["padding"] < ROUNDING
    model = folder_of(tmp_path / "b", "llama", "classifier", tiny_tokenizer("$A", **nothing), pad_token_id=None)
    assert "has no token to fill up batches with" in refusal(config_of(model, task_of("classifier")))


@pytest.mark.parametrize(
    ("kind", "changes", "kept"),
    [
        ("bert", {}, True),
        ("bert", {"type_vocab_size": 1}, False),
        ("roberta", {}, False),
        ("roberta", {"type_vocab_size": 2}, True),
        ("deberta-v2", {}, False),
        ("gpt2", {}, False),  # it would add the embeddings of the words 0 and 1
        ("llama", {}, False),
        ("distilbert", {}, False),
    ],
)
def test_the_types_of_a_pair_reach_a_model_that_has_them_and_no_other(
    tmp_path: Path, kind: str, changes: dict[str, int], kept: bool
) -> None:
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = tiny_tokenizer("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", model_input_names=inputs)
    model = folder_of(tmp_path, kind, "classifier", tokenizer, **changes)
    run, injected = run_of(config_of(model, task_of("classifier", pairs=True)))
    assert ("token_type_ids" in run.examples["train"][0]) is kept
    run.base.tokenizer.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert encode(run.task.data.splits["train"], again, run.config.task) == run.examples["train"]
    assert preflight(run, injected)["padding"] < ROUNDING


def test_a_type_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = tiny_tokenizer("<s> $A </s>", "<s> $A </s> $B:4 </s>:4", model_input_names=inputs)
    model = folder_of(tmp_path, "bert", "classifier", tokenizer)
    said = refusal(config_of(model, task_of("classifier", pairs=True)))
    assert "gives texts types up to 4; the model knows 2 types." in said


# ---- positions


@pytest.mark.parametrize(
    ("kind", "readable"),
    [("bert", 40), ("roberta", 38), ("gpt2", 40), ("opt", 40), ("llama", 40), ("deberta-v2", None), ("t5", None)],
)
def test_a_model_reads_as_many_tokens_as_it_can_compute_with(tmp_path: Path, kind: str, readable: int | None) -> None:
    model: Any = tiny_model(kind, "classifier")
    assert room(model) == readable
    if readable is None or kind == "llama":  # rotary positions go on, but no further than it was trained
        return
    ids = torch.full((1, readable + 1), 5)
    assert model(input_ids=ids[:, :-1]).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=ids)


@pytest.mark.parametrize(
    ("kind", "longest", "readable"), [("roberta", 39, 38), ("bert", 41, 40), ("llama", 41, 40), ("opt", 41, 40)]
)
def test_texts_beyond_the_positions_are_refused_before_the_run(
    tmp_path: Path, kind: str, longest: int, readable: int
) -> None:
    task = task_of("classifier", 60, texts=["a " * (longest - 2), "b"])
    model = folder_of(tmp_path, kind, "classifier")
    said = refusal(config_of(model, task))
    assert f"task=letters needs {longest} tokens (task.max_length=60, task.max_new_tokens=0)" in said
    assert said.endswith(f"model=tiny has positions for {readable}.\nSet task.max_length={readable} or less.")
    fitting = replace(task, max_length=readable)
    assert found(config_of(model, fitting))["padding"] < ROUNDING


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_is_written_needs_positions_too(tmp_path: Path, kind: str) -> None:
    model = folder_of(tmp_path, kind, "causal_lm")
    task = task_of("causal_lm", 30, new_tokens=28)
    said = refusal(config_of(model, task))
    assert "task=letters needs 41 tokens (task.max_length=30, task.max_new_tokens=28)" in said
    assert found(config_of(model, replace(task, max_new_tokens=27)))["tokens"] == 40


@pytest.mark.parametrize(
    ("kind", "architecture"), [("roberta", "classifier"), ("gpt2", "causal_lm"), ("llama", "causal_lm")]
)
@pytest.mark.parametrize("adapter", ["peft/prompt_tuning", "peft/prefix_tuning"])
def test_virtual_tokens_need_positions_too(tmp_path: Path, kind: str, architecture: str, adapter: str) -> None:
    model, task = folder_of(tmp_path, kind, architecture), task_of(architecture)
    needed, readable = (14, 38) if architecture == "classifier" else (16, 40)
    facts = found(config_of(model, task, adapter, readable - needed))
    assert (facts["tokens"], facts["virtual_tokens"], facts["positions"]) == (needed, readable - needed, readable)
    said = refusal(config_of(model, task, adapter, readable - needed + 1))
    assert f"needs {needed} tokens and {readable - needed + 1} virtual ones of adapter=peft_" in said


def test_a_conversation_may_grow_to_its_max_length(tmp_path: Path) -> None:
    model = folder_of(tmp_path, "gpt2", "causal_lm")
    said = refusal(config_of(model, task_of("causal_lm", 38, turns=True)))
    assert "needs 41 tokens (task.max_length=38, task.max_new_tokens=3)" in said


# ---- whole runs


def stored(config: Config, folder: Path) -> Config:
    """The config of a run that is stored in a folder, its model known by its checksum."""
    digest = local_checksum("tiny", str(config.model.path))
    return replace(
        config,
        model=replace(config.model, weights_sha256=digest),
        results_dir=str(folder / "results"),
        cache_dir=str(folder / "cache"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_labels", [None, 10])
def test_an_adapter_of_a_decoder_that_classifies_is_exported_with_its_padding_and_its_classes(
    tmp_path: Path, num_labels: int | None
) -> None:
    model = folder_of(
        tmp_path / "m", "llama", "classifier", tiny_tokenizer("<s> $A", pad_token=None), pad_token_id=None
    )
    if num_labels:  # the base is a classifier of its own
        own = tiny_model("llama", "classifier", num_labels=num_labels, pad_token_id=None)
        own.save_pretrained(str(model.path))
    model.roles = {"query": RoleConfig("model.layers.*.self_attn.q_proj", 16, 16)}
    config = stored(config_of(model, task_of("classifier"), "lora"), tmp_path)
    config = replace(config, target=replace(config.target, roles=["query"]))
    plan = Plan.of([config])
    assert run(config, plan) == "done"
    exported = export(Path(plan.folders[0]), "peft")
    assert "pad_token_id=3" in exported.written.usage
    assert ("ignore_mismatched_sizes=True" in exported.written.usage) is (num_labels == 10)


def test_a_run_that_is_refused_is_a_failed_one_with_the_reason(tmp_path: Path) -> None:
    config = stored(config_of(folder_of(tmp_path / "m", "bart", "causal_lm"), task_of("causal_lm")), tmp_path)
    plan = Plan.of([config])
    assert run(config, plan) == "failed"
    error = json.loads((Path(plan.folders[0]) / "result.json").read_text())["error"]
    assert error["class"] == "UserError"
    assert "padding on the left changes what it computes" in error["message"]
    assert not (Path(plan.folders[0]) / ADAPTER).exists()


# ---- the record


def test_a_record_says_what_was_found(tmp_path: Path) -> None:
    config = config_of(folder_of(tmp_path / "m", "bert", "classifier"), task_of("classifier"), "head_only")
    record = execute(replace(config, lr=None), tmp_path, lambda step, metrics: None)
    found = record["preflight"]
    assert found.pop("padding") < ROUNDING
    assert found == {
        "head_drawn": ["classifier.weight", "classifier.bias"],
        "head_pretrained": [],
        "unused_weights": 0,
        "tokens": 14,
        "virtual_tokens": 0,
        "positions": 40,
        "largest_id": WORDS.index("z"),
        "embedded_tokens": 32,
    }
