"""Named random streams: every use of randomness in a run draws from its own, each derived from the run's seed.

Methods of one comparison therefore see the same batches and start from the same head, and a method that draws
more numbers than another moves nobody else's.
"""

import hashlib
from typing import Literal, get_args

import torch

Stream = Literal["data_order", "adapter_init", "head_init", "dropout", "gradient_probe", "step_draw", "sampling"]
STREAMS: tuple[Stream, ...] = get_args(Stream)


def stream_seed(seed: int, stream: Stream) -> int:
    """The seed of one stream of a run: a 63-bit hash of the run's seed and the stream's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "big") >> 1


def stream_generator(seed: int, stream: Stream) -> torch.Generator:
    """A fresh CPU generator at the start of one stream of a run."""
    return torch.Generator().manual_seed(stream_seed(seed, stream))
