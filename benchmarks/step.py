"""A training step on a CPU beside PEFT's and beside the limit: a frozen base, forward and the gradient of its inputs.

    python -m benchmarks.step [rounds=3]

MiniLM's shape with random weights, 16 texts of 64 tokens, rank 8 on all linear layers, one thread. The variants take
turns on one base, in bfloat16 autocast and in float32, with the adapters' dropout, and on a base that is bfloat16
throughout. A step is what a method prepares, the loss and its backward pass; its time is the thread's own. Writes
`benchmarks/step.json`: milliseconds, each also over the limit's, and what autograd keeps for backward.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from benchmarks.variants import Around, Base, base_of, frozen, ours, theirs
from src.quiet import quiet_libraries
from src.training.device import find_device

RESULT = Path(__file__).with_suffix(".json")
BATCH = (16, 64)
STEPS = 3  # of a variant in each of its turns, beside one to warm up


@dataclass(frozen=True)
class Setting:
    """How the step is computed: autocast's format, the base's own, and the options of all adapters."""

    name: str
    autocast: bool
    dtype: torch.dtype = torch.float32
    dropout: float = 0.0

    def variants(self) -> dict[str, Callable[[Base], AbstractContextManager[Around]]]:
        """What is measured, by name."""
        on = partial(ours, autocast=self.autocast)
        if self.dropout:
            return {
                "limit": frozen,
                "lora": partial(on, name="lora", dropout=self.dropout),
                "peft lora": partial(theirs, name="peft lora", lora_dropout=self.dropout),
            }
        return {
            "limit": frozen,
            **{name: partial(on, name=name) for name in ("lora", "lora_fa", "lora_sb", "dora")},
            **{name: partial(theirs, name=name) for name in ("peft lora", "peft lora, A frozen", "peft dora")},
        }  # fmt: skip


SETTINGS = [
    Setting("bf16 autocast", autocast=True),
    Setting("float32", autocast=False),
    Setting("bf16 autocast, dropout 0.1", autocast=True, dropout=0.1),
    Setting("bf16 base", autocast=True, dtype=torch.bfloat16),
]


def kept_bytes(base: Base, setting: Setting) -> int:
    """What autograd keeps for the backward pass of a step beside the parameters."""
    of_parameters = {parameter.untyped_storage().data_ptr() for parameter in base.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), computing(setting):
        loss = base.loss
    loss.backward()
    return sum(kept.values())


def computing(setting: Setting) -> AbstractContextManager[Any]:
    """The context of a step."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=setting.autocast)


def seconds_of(base: Base, setting: Setting, begin: Callable[[], None]) -> float:
    """The thread's seconds of what a method prepares, a loss and its backward pass."""
    start = time.process_time()
    begin()
    with computing(setting):
        loss = base.loss
    loss.backward()
    return time.process_time() - start


def rows_of(setting: Setting, rounds: int) -> list[dict[str, Any]]:
    """The variants of a setting, measured in turn."""
    base = base_of("minilm", BATCH, "cpu", attention="eager")
    base.model.to(setting.dtype)
    seconds: dict[str, list[float]] = {}
    kept: dict[str, int] = {}
    for _ in range(rounds):
        for name, on in setting.variants().items():
            with on(base) as method:
                kept[name] = kept_bytes(base, setting)
                method.end()
                for _ in range(STEPS):
                    seconds.setdefault(name, []).append(seconds_of(base, setting, method.begin))
                    method.end()
    limit = median(seconds["limit"])
    return [
        {
            "setting": setting.name, "variant": name,
            "milliseconds": round(1000 * median(times), 1),
            "of_limit": round(median(times) / limit, 3),
            "of_peft_lora": round(median(times) / median(seconds["peft lora"]), 3),
            "kept_mebibytes": round(kept[name] / 2**20, 1),
            "each_milliseconds": [round(1000 * value, 1) for value in times],
        }
        for name, times in seconds.items()
    ]  # fmt: skip


def main() -> None:
    """Measure all settings and write what came out."""
    quiet_libraries()
    rounds = int(sys.argv[1].removeprefix("rounds=")) if len(sys.argv) > 1 else 3
    machine = {"machine": find_device("fp32").name, "torch": torch.__version__, "peft": peft.__version__}
    machine |= {"transformers": transformers.__version__}
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for setting in SETTINGS:
        rows += rows_of(setting, rounds)
        for row in rows:
            if row["setting"] == setting.name:
                print({key: value for key, value in row.items() if key != "each_milliseconds"}, flush=True)
    RESULT.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
