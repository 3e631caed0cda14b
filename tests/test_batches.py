"""From rows to batches: what is masked, what is padded, and which examples meet in a batch."""

from itertools import chain

import pytest
import torch

from src.config.schema import TaskConfig
from src.models.base_model import character_tokenizer, load_base
from src.training.batches import LengthBuckets, by_length, collate, encode, pad, shortened
from tests.conftest import composed

EXAMPLES, BATCH = 214, 4  # 53 batches an epoch, which are more than one group of 50, and 2 examples over
EPOCH = EXAMPLES // BATCH


def lengths(count: int = EXAMPLES) -> list[int]:
    return torch.randint(1, 90, (count,), generator=torch.Generator().manual_seed(0)).tolist()


def buckets(*, seed: int = 1, batches: int = EPOCH, batch_size: int = BATCH) -> LengthBuckets:
    generator = torch.Generator().manual_seed(seed)
    return LengthBuckets(lengths(), batch_size=batch_size, batches=batches, generator=generator)


def mean_spread(batches: list[list[int]]) -> float:
    sizes = lengths()
    return sum(max(sizes[i] for i in batch) - min(sizes[i] for i in batch) for batch in batches) / len(batches)


def causal_task(max_length: int = 32) -> TaskConfig:
    return TaskConfig(name="t", loader="", architecture="causal_lm", metric="exact_match", max_length=max_length)


def test_the_seed_alone_decides_the_batches() -> None:
    assert list(buckets(seed=1)) == list(buckets(seed=1))
    assert list(buckets(seed=1)) != list(buckets(seed=2))


def test_no_example_is_seen_twice_in_an_epoch_and_fewer_than_a_batch_are_left_out() -> None:
    seen = list(chain.from_iterable(buckets()))
    assert len(set(seen)) == len(seen) == EPOCH * BATCH
    assert set(seen) <= set(range(EXAMPLES))


@pytest.mark.parametrize("count", [1, EPOCH, 2 * EPOCH + 7])
def test_exactly_as_many_batches_come_as_asked_for_across_epochs(count: int) -> None:
    sampler = buckets(batches=count)
    batches = list(sampler)
    assert len(batches) == len(sampler) == count
    assert {len(batch) for batch in batches} == {BATCH}


def test_each_epoch_is_shuffled_anew() -> None:
    batches = list(buckets(batches=2 * EPOCH))
    first, second = batches[:EPOCH], batches[EPOCH:]
    assert len(set(chain.from_iterable(second))) == EPOCH * BATCH
    assert first != second


def test_a_batch_larger_than_the_data_is_all_of_the_data() -> None:
    batches = list(buckets(batches=3, batch_size=EXAMPLES + 5))
    assert [sorted(batch) for batch in batches] == [list(range(EXAMPLES))] * 3


def test_lengths_within_a_batch_are_ten_times_closer_than_in_random_batches() -> None:
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(5)).tolist()
    at_random = [order[start : start + BATCH] for start in range(0, EPOCH * BATCH, BATCH)]
    assert mean_spread(list(buckets())[:50]) < mean_spread(at_random) / 10


def test_batches_do_not_come_sorted_by_length() -> None:
    sizes = lengths()
    longest = [max(sizes[index] for index in batch) for batch in list(buckets())[:50]]  # one group
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_drawing_batches_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(buckets())
    assert torch.equal(torch.get_rng_state(), before)


def test_scoring_batches_hold_every_example_once_from_long_to_short() -> None:
    sizes = lengths()
    batches = by_length([{"input_ids": [0] * length} for length in sizes], batch_size=9)
    order = list(chain.from_iterable(batches))
    assert sorted(order) == list(range(EXAMPLES))
    assert [sizes[index] for index in order] == sorted(sizes, reverse=True)
    assert [len(batch) for batch in batches] == [9] * 23 + [7]


def test_pad_fills_up_on_the_right_or_the_left() -> None:
    assert pad([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad([[1, 2, 3], [4]], 9, left=True).tolist() == [[1, 2, 3], [9, 9, 4]]


def test_collate_pads_and_masks_a_classifier_and_keeps_its_classes() -> None:
    batch = collate([{"input_ids": [5, 6], "labels": 2}, {"input_ids": [7, 8, 9], "labels": 0}], pad_token_id=1)
    assert {key: tensor.tolist() for key, tensor in batch.items()} == {
        "input_ids": [[5, 6, 1], [7, 8, 9]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],
        "labels": [2, 0],
    }


def test_collate_takes_padding_out_of_a_language_model_s_loss() -> None:
    examples = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = collate(examples, pad_token_id=1)
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_pad_token_within_a_text_is_not_masked() -> None:
    batch = collate([{"input_ids": [5, 1, 7], "labels": 0}], pad_token_id=1)
    assert batch["attention_mask"].tolist() == [[1, 1, 1]]


def test_a_causal_example_learns_the_answer_and_the_end_but_not_the_prompt() -> None:
    example = encode([{"prompt": "ab=", "answer": "ba"}], character_tokenizer(), causal_task())[0]
    a, b, equals, end = 68, 69, 32, 1  # printable ASCII from 3 on, so a character's code less 29; <eos> is 1
    assert example["input_ids"] == [a, b, equals, b, a, end]
    assert example["labels"] == [-100, -100, -100, b, a, end]
    assert example["prompt"] == [a, b, equals]


def test_a_long_prompt_loses_its_beginning_and_never_its_answer() -> None:
    example = encode([{"prompt": "ab=", "answer": "ba"}], character_tokenizer(), causal_task(max_length=4))[0]
    assert example["input_ids"] == [32, 69, 68, 1]
    assert example["labels"] == [-100, 69, 68, 1]
    assert example["prompt"] == [68, 69, 32]


def test_a_long_answer_loses_its_end_and_keeps_something_to_follow() -> None:
    example = encode([{"prompt": "ab=", "answer": "bababa"}], character_tokenizer(), causal_task(max_length=4))[0]
    assert example["input_ids"] == [32, 69, 68, 69]
    assert example["labels"] == [-100, 69, 68, 69]


def test_a_shortened_prompt_still_begins_as_every_text_does() -> None:
    tokenizer = character_tokenizer()
    assert shortened([68, 69, 70, 71], 2, tokenizer) == [70, 71]
    tokenizer.bos_token = "a"
    assert shortened([68, 69, 70, 71], 3, tokenizer) == [68, 70, 71]
    assert shortened([68, 69, 70, 71], 1, tokenizer) == [71]
    assert shortened([68, 69], 2, tokenizer) == [68, 69]


def test_a_pair_of_texts_is_told_apart_where_the_model_can() -> None:
    tokenizer = load_base(composed().model, num_labels=2, attention="eager").tokenizer
    task = TaskConfig(name="t", loader="", architecture="classifier", metric="accuracy", max_length=16)
    rows = [{"text": "one two", "text_pair": "three", "label": 1}, {"text": "a", "text_pair": "b", "label": 0}]
    examples = encode(rows, tokenizer, task)
    assert tokenizer.decode(examples[0]["input_ids"]) == "[CLS] one two [SEP] three [SEP]"
    batch = collate(examples, pad_token_id=0)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 1, 1, 0]]


def test_labels_that_are_numbers_stay_numbers() -> None:
    batch = collate([{"input_ids": [5], "labels": 2.5}, {"input_ids": [6], "labels": 0.0}], pad_token_id=1)
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [2.5, 0.0]


def test_a_classifier_s_text_is_cut_and_its_label_kept() -> None:
    task = TaskConfig(name="t", loader="", architecture="classifier", metric="accuracy", max_length=3)
    examples = encode([{"text": "abcde", "label": 4}, {"text": "b", "label": 0}], character_tokenizer(), task)
    assert examples == [{"input_ids": [68, 69, 70], "labels": 4}, {"input_ids": [69], "labels": 0}]
