"""Random streams: apart from each other, the same in every process, and pinned."""

from itertools import combinations

import pytest
import torch

from src.streams import STREAMS, Stream, stream_generator, stream_seed


def numbers(seed: int, stream: Stream) -> list[float]:
    return torch.rand(5, generator=stream_generator(seed, stream)).tolist()


@pytest.mark.parametrize(("one", "other"), list(combinations(STREAMS, 2)))
def test_streams_of_one_seed_differ(one: Stream, other: Stream) -> None:
    assert stream_seed(3, one) != stream_seed(3, other)
    assert not set(numbers(3, one)) & set(numbers(3, other))


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_is_the_same_for_the_same_seed_and_another_for_another(stream: Stream) -> None:
    assert numbers(3, stream) == numbers(3, stream)
    assert not set(numbers(3, stream)) & set(numbers(4, stream))


@pytest.mark.parametrize(
    ("seed", "stream", "expected"),
    [(0, "data_order", 7359687707597974334), (3, "adapter_init", 5767453632535178388)],
)
def test_stream_seeds_are_what_results_of_earlier_runs_were_made_with(seed: int, stream: Stream, expected: int) -> None:
    # the first 16 hex digits that `printf 0/data_order | sha256sum` prints, halved
    assert stream_seed(seed, stream) == expected


def test_drawing_from_one_stream_moves_no_other() -> None:
    one, other = stream_generator(3, "adapter_init"), stream_generator(3, "data_order")
    torch.rand(1000, generator=one)
    assert torch.rand(5, generator=other).tolist() == numbers(3, "data_order")


def test_drawing_from_a_stream_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    numbers(3, "dropout")
    assert torch.equal(torch.get_rng_state(), before)
