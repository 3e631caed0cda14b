"""Leading singular vectors: exact and kept for the next run where a sweep asks again, or randomised for large matrices.

Runs of a sweep start from the same matrices at other ranks, whose factors are the first of the largest rank's.
"""

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor

EXACT_SIZE = 512  # the smaller side up to which a decomposition takes no longer than its use is worth
OVERSAMPLING, POWER_ITERATIONS = 16, 4
KEPT_VECTORS = 128  # of each side, so that one decomposition serves all usual ranks
KEPT_BYTES = 2**30
Factors = tuple[Tensor, Tensor, Tensor]
_kept: OrderedDict[tuple[str, int], Factors] = OrderedDict()


def leading_factors(matrix: Tensor, rank: int) -> Factors:
    """U (m, rank), S (rank,) and Vh (rank, n) of a matrix (m, n), exact; kept by the matrix's content.

    Returns:
        Factors in float32 on the matrix's device.
    """
    count = min(max(rank, KEPT_VECTORS), *matrix.shape)
    data = matrix.detach().float().contiguous()
    key = (_digest(data), count)
    if key not in _kept:
        U, S, Vh = torch.linalg.svd(data, full_matrices=False)
        _kept[key] = (U[:, :count].cpu().contiguous(), S[:count].cpu(), Vh[:count].cpu().contiguous())
        while len(_kept) > 1 and sum(one.nbytes for factors in _kept.values() for one in factors) > KEPT_BYTES:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    U, S, Vh = (factor.to(matrix.device) for factor in _kept[key])
    return U[:, :rank], S[:rank], Vh[:rank]


def _digest(matrix: Tensor) -> str:
    numbers = matrix.cpu().view(torch.uint8).numpy()
    return hashlib.sha256(numbers.tobytes() + str(tuple(matrix.shape)).encode()).hexdigest()


def first_factors(matrix: Tensor, keep: int | None, generator: torch.Generator) -> tuple[Factors, float]:
    """The `keep` first singular vectors on each side, all by default, and how far they are from being such.

    A large matrix is projected onto a random subspace of a few more dimensions, sharpened by power iterations (Halko et
    al. 2011, https://arxiv.org/abs/0909.4061, algorithm 4.4).

    Args:
        matrix: (m, n) in float32.

    Returns:
        U, S and Vh, and ||M V - U S|| / ||S||, 0 where they are exact.
    """
    width = (keep or max(matrix.shape)) + OVERSAMPLING
    if min(matrix.shape) <= EXACT_SIZE or width > min(matrix.shape) // 2:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        return (U[:, :keep], S[:keep], Vh[:keep]), 0.0
    drawn = torch.randn(matrix.shape[1], width, generator=generator).to(matrix.device)
    Q, _ = torch.linalg.qr(matrix @ drawn)
    for _ in range(POWER_ITERATIONS):
        Q, _ = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ Q)[0])
    inner, S, Vh = torch.linalg.svd(Q.T @ matrix, full_matrices=False)
    U, S, Vh = (Q @ inner)[:, :keep], S[:keep], Vh[:keep]
    # The other side's, M^T U - V S, is zero by construction.
    residual = torch.linalg.norm(matrix @ Vh.T - U * S) / torch.linalg.norm(S)
    return (U, S, Vh), float(residual)
