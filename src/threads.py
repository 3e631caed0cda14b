"""How long a waiting thread of a matrix product spins before it sleeps.

GNU's OpenMP, which PyTorch brings for Linux, lets it spin so long that beside other busy processes, which take its
cores meanwhile, a training step takes twenty times as long. A hundredth of that is as fast alone
(`benchmarks/under_load.json`).
"""

import os

SPINS = "3000"
SAID_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning() -> None:
    """Set the limit, which is read when torch is imported; what the user says of it stays."""
    if not any(name in os.environ for name in SAID_BY_USER):
        os.environ["GOMP_SPINCOUNT"] = SPINS
