"""A training step on a GPU beside PEFT's and beside the limit: a frozen base, forward and the gradient of its inputs.

    python -m benchmarks.gpu [models=minilm,roberta_large,llama3_2_3b,mistral_7b] [rounds=3]

Models have the shapes of their yaml and random weights, methods rank 8 on all linear layers; the variants take turns on
one base. A step is what the trainer does: bfloat16 autocast, loss, backward, corrected gradients, AdamW; of the
classifiers also as a CUDA graph, which the trainer makes of their steps. Writes `benchmarks/gpu.json`: milliseconds,
tokens a second, and the peak of the memory beside the weights.
"""

import gc
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

from benchmarks.variants import PEFT, Around, Base, base_of, frozen, ours, theirs
from src.quiet import quiet_libraries
from src.training.graphs import RecordedSteps

RESULT = Path(__file__).with_suffix(".json")
WARM_UP, STEPS = 4, 10
# Texts of a batch and their tokens.
BATCHES = {"minilm": (32, 64), "roberta_large": (32, 128), "llama3_2_3b": (4, 1024), "mistral_7b": (4, 512)}
# PiSSA computes as LoRA does and LoRA-XS as LoRA-SB; their start takes a decomposition of every weight.
OURS = ["lora", "lora_fa", "lora_sb", "dora", "vera"]


RECORDED = ", recorded"


def measure(base: Base, method: Around, *, recorded: bool = False) -> tuple[list[float], int]:
    """Milliseconds of each step by the GPU's clock, and the peak bytes beside what was there before."""
    milliseconds = []

    def gradients(batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = base.loss_of(batch)
        loss.backward()
        return loss.detach()

    gradients_of = RecordedSteps(base.model, gradients, print) if recorded else gradients
    before = torch.cuda.memory_allocated()
    for _ in range(WARM_UP + STEPS):
        torch.cuda.reset_peak_memory_stats()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        method.begin()
        gradients_of(base.batch)
        method.end()
        end.record()
        end.synchronize()
        milliseconds.append(begin.elapsed_time(end))
    return milliseconds[WARM_UP:], torch.cuda.max_memory_allocated() - before


def rows_of(name: str, rounds: int) -> list[dict[str, Any]]:
    """A model's variants, measured in turn."""
    base = base_of(name, BATCHES[name], "cuda")
    weights = torch.cuda.memory_allocated()
    # A language model's batches have other numbers of answers' tokens each, and aren't recorded.
    recorded = [] if base.model.can_generate() else [one + RECORDED for one in OURS]
    variants = {"limit": frozen} | {one: ours for one in [*OURS, *recorded]} | {one: theirs for one in PEFT}
    times: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}
    for _ in range(rounds):
        for variant, on in variants.items():
            with on(base) if on is frozen else on(base, variant.removesuffix(RECORDED)) as method:
                milliseconds, peaks[variant] = measure(base, method, recorded=variant.endswith(RECORDED))
            times.setdefault(variant, []).extend(milliseconds)
            gc.collect()
            torch.cuda.empty_cache()
    texts, tokens = BATCHES[name]
    return [
        {
            "model": name, "texts": texts, "tokens": tokens, "variant": variant,
            "milliseconds": round(median(values), 2),
            "of_limit": round(median(values) / median(times["limit"]), 3),
            "tokens_per_second": round(1000 * texts * tokens / median(values)),
            # A recording's memory is its own, which the allocator counts as given back.
            "peak_megabytes_beside_weights": None if RECORDED in variant else round(peaks[variant] / 1e6, 1),
            "weights_megabytes": round(weights / 1e6, 1),
            "each_milliseconds": [round(value, 2) for value in values],
        }
        for variant, values in times.items()
    ]  # fmt: skip


def measured_before(machine: dict[str, str], names: list[str]) -> list[dict[str, Any]]:
    """The rows of other models that the same card and libraries gave: each part may be a command of its own."""
    written = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    rows: list[dict[str, Any]] = written.pop("rows")
    return [row for row in rows if row["model"] not in names] if written == machine else []


def main() -> None:
    """Measure the models and write what came out, after each."""
    quiet_libraries()
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    names, rounds = given.get("models", ",".join(BATCHES)).split(","), int(given.get("rounds", 3))
    machine = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "peft": peft.__version__}
    machine |= {"transformers": transformers.__version__, "precision": "bfloat16 autocast"}
    rows = measured_before(machine, names)
    for name in names:
        rows += rows_of(name, rounds)
        for row in rows:
            if row["model"] == name:
                print({key: value for key, value in row.items() if key != "each_milliseconds"}, flush=True)
        RESULT.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
