"""The estimate of full fine-tuning's first step, against autograd on all samples at once."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.adapters.calibrate import update_directions

VOCABULARY, WIDTH, HIDDEN, CLASSES, SAMPLES, TOKENS = 13, 7, 5, 3, 8, 4
TARGETS = ["first", "second"]


class Classifier(nn.Module):
    """Two linear layers on a frozen embedding, with the mean cross-entropy of a batch as its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.first = nn.Linear(WIDTH, HIDDEN)
        self.second = nn.Linear(HIDDEN, CLASSES)
        self.dropout = nn.Dropout(0.5)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.double().parameters():
            nn.init.normal_(parameter, generator=generator)
        self.embedding.requires_grad_(False)
        self.modes: list[bool] = []

    def forward(self, input_ids: Tensor, labels: Tensor) -> SimpleNamespace:
        self.modes.append(self.training)
        hidden = torch.tanh(self.first(self.embedding(input_ids).mean(1)))
        return SimpleNamespace(loss=F.cross_entropy(self.second(self.dropout(hidden)), labels))


def batches(*sizes: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (SAMPLES, TOKENS), generator=generator)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    parts = zip(ids.split(sizes), labels.split(sizes), strict=True)
    return [{"input_ids": token_ids, "labels": classes} for token_ids, classes in parts]


def gradient_of_all_samples(model: nn.Module, name: str) -> Tensor:
    model = deepcopy(model).eval()
    (batch,) = batches(SAMPLES)
    weight = model.get_parameter(f"{name}.weight").requires_grad_(True)
    return torch.autograd.grad(model(**batch).loss, weight)[0]


@pytest.mark.parametrize("sizes", [(8,), (5, 3), (1, 6, 1)], ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_the_factors_multiply_to_minus_the_sign_of_the_whole_gradient(sizes: tuple[int, ...], name: str) -> None:
    model = Classifier()
    direction = update_directions(model, TARGETS, batches(*sizes))[name]
    product = direction.U @ torch.diag(direction.S) @ direction.Vh
    expected = -gradient_of_all_samples(model, name).sign().float()
    torch.testing.assert_close(product, expected, rtol=0, atol=1e-5)


def test_batches_are_weighted_by_their_number_of_samples() -> None:
    # without the weights one sample would count as much as seven: the signs above must be able to tell
    model = Classifier().eval()
    unweighted = torch.zeros(HIDDEN, WIDTH, dtype=torch.float64)
    for batch in batches(1, 6, 1):
        unweighted += torch.autograd.grad(model(**batch).loss, model.first.weight)[0]
    assert not torch.equal(unweighted.sign(), gradient_of_all_samples(model, "first").sign())


def test_factors_are_orthonormal_and_of_the_smaller_size() -> None:
    directions = update_directions(Classifier(), TARGETS, batches(5, 3))
    assert {name: (tuple(d.U.shape), tuple(d.S.shape), tuple(d.Vh.shape)) for name, d in directions.items()} == {
        "first": ((HIDDEN, HIDDEN), (HIDDEN,), (HIDDEN, WIDTH)),
        "second": ((CLASSES, CLASSES), (CLASSES,), (CLASSES, HIDDEN)),
    }
    for d in directions.values():
        torch.testing.assert_close(d.U.T @ d.U, torch.eye(len(d.S)))
        torch.testing.assert_close(d.Vh @ d.Vh.T, torch.eye(len(d.S)))


def test_directions_come_in_the_order_of_the_targets() -> None:
    assert list(update_directions(Classifier(), ["second", "first"], batches(5, 3))) == ["second", "first"]


def test_an_iterator_of_batches_serves_as_well_as_a_list() -> None:
    model = Classifier()
    direction = update_directions(model, ["first"], iter(batches(5, 3)))["first"]
    expected = -gradient_of_all_samples(model, "first").sign().float()
    torch.testing.assert_close(direction.U @ torch.diag(direction.S) @ direction.Vh, expected, rtol=0, atol=1e-5)


def test_no_gradient_and_no_wish_for_one_is_left_behind() -> None:
    model = Classifier()
    update_directions(model, TARGETS, batches(5, 3))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_later_backward_pass_is_the_model_s_own_again() -> None:
    model = Classifier()
    update_directions(model, TARGETS, batches(5, 3))
    expected = gradient_of_all_samples(model, "first")
    model.eval().first.weight.requires_grad_(True)
    model(**batches(SAMPLES)[0]).loss.backward()
    torch.testing.assert_close(model.first.weight.grad, expected)


def test_weights_are_bit_for_bit_what_they_were() -> None:
    model = Classifier()
    before = deepcopy(model.state_dict())
    update_directions(model, TARGETS, batches(5, 3))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_the_model_is_probed_without_dropout_and_put_back_into_its_mode(mode: bool) -> None:
    model = Classifier().train(mode)
    update_directions(model, TARGETS, batches(5, 3))
    assert model.modes == [False, False]
    assert model.training == model.dropout.training == mode


@pytest.mark.parametrize("dropout_seed", [None, 5])
def test_the_global_random_state_is_as_it_was(dropout_seed: int | None) -> None:
    model = Classifier().train()
    before = torch.get_rng_state()
    update_directions(model, TARGETS, batches(5, 3), dropout_seed=dropout_seed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sizes", [(8,), (5, 3)], ids=str)
def test_dropout_acts_in_the_probe_where_it_is_asked_for_with_the_masks_of_its_seed(sizes: tuple[int, ...]) -> None:
    model, expected = Classifier().eval(), Classifier().train()
    direction = update_directions(model, ["second"], batches(*sizes), dropout_seed=5)["second"]
    assert model.modes == [True] * len(sizes)
    assert not model.training
    with torch.random.fork_rng():
        torch.manual_seed(5)
        losses = [expected(**batch).loss * len(batch["labels"]) for batch in batches(*sizes)]
    (gradient,) = torch.autograd.grad(sum(losses), expected.second.weight)
    product = direction.U @ torch.diag(direction.S) @ direction.Vh
    torch.testing.assert_close(product, -gradient.sign().float(), rtol=0, atol=1e-5)
    without = update_directions(model, ["second"], batches(*sizes))["second"]
    assert not torch.allclose(without.U @ torch.diag(without.S) @ without.Vh, product, atol=1e-3)


@pytest.mark.parametrize(("sizes", "expected"), [((8,), [1, 1]), ((5, 3), [2, 1])], ids=str)
def test_a_gradient_is_freed_before_the_next_layer_s_is_decomposed(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], expected: list[int]
) -> None:
    # with several batches the sum of the earlier ones is alive in every layer whose turn hasn't come
    model, alive, decompose = Classifier(), [], torch.linalg.svd

    def counted(matrix: Tensor, **options: bool) -> tuple[Tensor, ...]:
        alive.append(sum(parameter.grad is not None for parameter in model.parameters()))
        parts: tuple[Tensor, ...] = decompose(matrix, **options)
        return parts

    monkeypatch.setattr(torch.linalg, "svd", counted)
    update_directions(model, TARGETS, batches(*sizes))
    assert alive == expected
