"""LoRA-SB's start for a sweep of three ranks and three rates, beside the procedure of the authors' code.

    python -m benchmarks.starts [rounds=3]

The embedded default, all linear layers, 256 texts in the probe. The authors' code computes the gradients of all
parameters for each run, copies each to the host, and decomposes each target's with `svd_lowrank` at the run's rank;
here both are done once. Writes `benchmarks/starts.json`: seconds of the nine starts, medians, and the share of the best
approximation's energy that each captures at rank 16.
"""

import copy
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from src.config.composer import composer
from src.config.schema import Config
from src.quiet import quiet_libraries
from src.running import starts
from src.running.assemble import empty_setup, fresh_model
from src.running.prepare import Prepared, prepare
from src.training.batches import by_length, collate
from src.training.device import find_device
from src.training.loss import mean_loss

RESULT = Path(__file__).with_suffix(".json")
RANKS, RATES = (4, 8, 16), (3e-4, 1e-3, 3e-3)
POWER_ITERATIONS = 10  # niter of the authors' call


def configs(cache_dir: str) -> list[Config]:
    """The sweep's runs."""
    with composer() as reader:
        return [
            reader.config([f"rank={rank}", f"lr={rate}", "adapter=lora_sb", f"cache_dir={cache_dir}", "tracking=none"])
            for rank in RANKS
            for rate in RATES
        ]


def ours(runs: list[Prepared]) -> dict[str, Tensor]:
    """The first factors of each target for the last run, after those of all."""
    for run in runs:
        model = fresh_model(run.config, run.base)
        found = starts.directions(run, model, empty_setup(run.config, model).target_modules)
    return {name: direction.U[:, : RANKS[-1]] for name, direction in found.items()}


def theirs(runs: list[Prepared]) -> dict[str, Tensor]:
    """The same as the authors' code does it, without its loop over all parameters in each parameter's hook."""
    for run in runs:
        model: Any = copy.deepcopy(fresh_model(run.config, run.base)).eval().requires_grad_(True)
        probe = starts._probe(run)
        sums: dict[str, Tensor] = {}
        for batch in by_length(probe, starts.PROBE_BATCH):
            model.zero_grad()
            texts = collate([probe[index] for index in batch], run.base.tokenizer.pad_token_id)
            (mean_loss(model, texts) * len(batch)).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] = sums[name] + parameter.grad.cpu() if name in sums else parameter.grad.cpu().clone()
        targets = empty_setup(run.config, model).target_modules
        torch.manual_seed(0)
        factors = {
            name: torch.svd_lowrank(-sums[f"{name}.weight"].sign(), q=run.config.rank, niter=POWER_ITERATIONS)[0]
            for name in targets
        }
    return factors


def captured(factors: dict[str, Tensor], matrices: dict[str, Tensor]) -> float:
    """The mean share of the energy of the best approximation of equal rank."""
    shares = []
    for name, U in factors.items():
        best = torch.linalg.svdvals(matrices[name])[: U.shape[1]].square().sum()
        shares.append(float((matrices[name].T @ U).square().sum() / best))
    return fmean(shares)


def signs(run: Prepared) -> dict[str, Tensor]:
    """-sign(G) of each target, from all of its singular vectors."""
    model = fresh_model(run.config, run.base)
    found = starts._estimated(run, model, empty_setup(run.config, model).target_modules, keep=10**6)
    return {name: direction.U @ torch.diag(direction.S) @ direction.Vh for name, direction in found.items()}


def main() -> None:
    """Measure both in turn, ours with an empty cache each time."""
    quiet_libraries()
    rounds = int(sys.argv[1].removeprefix("rounds=")) if len(sys.argv) > 1 else 3
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    factors: dict[str, dict[str, Tensor]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            runs = [prepare(config, Path(folder)) for config in configs(folder)]
            for name, way in (("ours", ours), ("theirs", theirs)):
                begun = time.perf_counter()
                factors[name] = way(runs)
                seconds[name].append(time.perf_counter() - begun)
    exact = signs(runs[0])
    outcome = {
        "machine": find_device("fp32").name,
        **{f"{name}_seconds": round(median(values), 2) for name, values in seconds.items()},
        "ratio": round(median(seconds["ours"]) / median(seconds["theirs"]), 3),
        **{f"{name}_captured": round(captured(found, exact), 5) for name, found in factors.items()},
    }
    print(outcome)
    RESULT.write_text(json.dumps(outcome, indent=1) + "\n")


if __name__ == "__main__":
    main()
