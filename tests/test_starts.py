"""LoRA-SB's start is made once for a sweep, and what is kept of it is what would be made again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from src.adapters import decomposition
from src.adapters.decomposition import EXACT_SIZE, first_factors, leading_factors
from src.results.store import ADAPTER
from src.running import starts
from tests.conftest import composed
from tests.test_adapters import drawn
from tests.test_sweep_equals_alone import caches
from tests.test_training import run

SHORT = ["model=tiny_llama", "task=reverse_words", "tracking=none", "trainer=smoke", "trainer.max_steps=2",
         "adapter=lora_sb", "forgetting=none"]  # fmt: skip


@pytest.fixture
def estimates(monkeypatch: Any) -> list[list[str]]:
    """The targets of each estimate that is made."""
    made: list[list[str]] = []
    estimated = starts._estimated

    def spy(prepared: Any, model: Any, targets: list[str], keep: int) -> Any:
        made.append(targets)
        return estimated(prepared, model, targets, keep)

    monkeypatch.setattr(starts, "_estimated", spy)
    return made


def adapter_of(folder: Path, *overrides: str, forget: bool = True) -> dict[str, Tensor]:
    """The trained adapter of a run in what could be a new process."""
    if forget:
        caches()["_known"].clear()
    run(composed(*SHORT, f"cache_dir={folder.parent}/cache", f"results_dir={folder.parent}", *overrides), folder)
    return load_file(folder / ADAPTER)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_ranks_rates_and_target_sets_share_one_estimate(estimates: list[list[str]], tmp_path: Path) -> None:
    adapter_of(tmp_path / "a", "rank=4", "target=all_linear")
    adapter_of(tmp_path / "b", "rank=2", "lr=0.01")
    adapter_of(tmp_path / "c", "rank=4", "target=qv", forget=False)
    assert len(estimates) == 1
    adapter_of(tmp_path / "d", "rank=4", "seed=1")  # another probe
    assert len(estimates) == 2


def test_a_larger_target_set_adds_what_it_lacks(estimates: list[list[str]], tmp_path: Path) -> None:
    adapter_of(tmp_path / "few", "rank=4", "target=qv")
    added = adapter_of(tmp_path / "all", "rank=4", "target=all_linear")
    assert len(estimates) == 2
    assert not set(estimates[0]) & set(estimates[1])
    for file in (tmp_path / "cache" / "starts").iterdir():
        file.unlink()
    assert equal(added, adapter_of(tmp_path / "alone", "rank=4", "target=all_linear"))
    assert len(estimates) == 3


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cut", "empty", "other"))]
)
def test_a_damaged_file_is_made_again(damage: str, estimates: list[list[str]], tmp_path: Path) -> None:
    first = adapter_of(tmp_path / "a", "rank=4")
    (path,) = (tmp_path / "cache" / "starts").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    damaged = {"cut": content[:-7], "flipped": content, "empty": b"", "other": b"not a tensor"}[damage]
    path.write_bytes(bytes(damaged))
    assert equal(first, adapter_of(tmp_path / "b", "rank=4"))
    assert len(estimates) == 2
    assert equal(first, adapter_of(tmp_path / "c", "rank=4"))
    assert len(estimates) == 2


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(estimates: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "starts").write_text("a file where the folder would be")
    first = adapter_of(tmp_path / "a", "rank=4")
    assert equal(first, adapter_of(tmp_path / "b", "rank=4"))
    assert len(estimates) == 2


@pytest.mark.parametrize("shape", [(700, 900), (1100, 640)])
@pytest.mark.parametrize("kind", ["sign of low rank and noise", "noise"])
def test_the_randomised_factors_of_a_large_matrix_are_near_the_exact_ones(shape: tuple[int, int], kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(*shape, generator=generator)
    low_rank = torch.randn(shape[0], 40, generator=generator) @ torch.randn(40, shape[1], generator=generator)
    matrix = (low_rank / 40**0.5 + noise).sign() if kind != "noise" else noise.sign()
    (U, S, Vh), residual = first_factors(matrix, 32, torch.Generator().manual_seed(1))
    exact = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(U.T @ U, torch.eye(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(Vh @ Vh.T, torch.eye(32), atol=1e-5, rtol=0)
    captured = float((matrix.T @ U[:, :16]).square().sum() / exact[:16].square().sum())
    assert captured > (0.999 if kind != "noise" else 0.95)
    apart = (matrix.double() @ Vh.T.double() - U.double() * S.double()).square().sum().sqrt() / S.double().norm()
    assert residual == pytest.approx(float(apart), rel=1e-3)
    assert residual > 1e-3  # the last of the vectors aren't there yet, and that is said


def test_small_matrices_are_decomposed_exactly() -> None:
    matrix = drawn(60, 40, seed=1, dtype=torch.float32)
    factors, residual = first_factors(matrix, 8, torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    assert residual == 0
    assert all(torch.equal(one, other) for one, other in zip(factors, (U[:, :8], S[:8], Vh[:8]), strict=True))
    assert min(matrix.shape) <= EXACT_SIZE


def test_factors_of_equal_matrices_are_computed_once(monkeypatch: Any) -> None:
    computed: list[torch.Size] = []
    svd = torch.linalg.svd

    def spy(matrix: Tensor, **how: Any) -> Any:
        computed.append(matrix.shape)
        return svd(matrix, **how)

    monkeypatch.setattr(torch.linalg, "svd", spy)
    matrix, other = (drawn(30, 20, seed=seed, dtype=torch.float32) for seed in (11, 12))
    first, again = leading_factors(matrix, 4), leading_factors(matrix.clone(), 9)
    leading_factors(other, 4)
    assert len(computed) == 2
    assert all(
        torch.equal(one, many) for one, many in zip(first, (again[0][:, :4], again[1][:4], again[2][:4]), strict=True)
    )
    monkeypatch.setattr(decomposition, "KEPT_BYTES", 1)
    leading_factors(drawn(31, 20, seed=1, dtype=torch.float32), 4)
    assert len(decomposition._kept) == 1
