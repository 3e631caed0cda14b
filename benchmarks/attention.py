"""Milliseconds of a LoRA training step with plain and with fused attention, on this machine.

    python -m benchmarks.attention

Rank 8 on all linear layers of the default model, batches of 32, forward and backward. Writes
`benchmarks/attention.json`. It is why `src/training/device.py` chooses plain attention on a CPU.
"""

import json
import time
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir

from src.adapters.base import Setup
from src.adapters.inject import find_targets, inject
from src.adapters.lora import LoRA
from src.config.composer import CONF
from src.config.schema import Config
from src.models.base_model import load_base
from src.quiet import quiet_libraries
from src.training.device import Device, find_device

STEPS, BATCH = 15, 32


def step_milliseconds(config: Config, device: Device, tokens: int) -> float:
    """Median of one forward and backward pass over `BATCH` sequences of `tokens` tokens."""
    generator = torch.Generator().manual_seed(0)
    base = load_base(config.model, num_labels=10, attention=device.attention)
    model = base.fresh_copy(config.model.head, generator).to(device.type)  # type: ignore[arg-type]
    targets = find_targets(model, config.model, config.target_roles())
    inject(model, LoRA, Setup(targets, rank=8, alpha=16.0, generator=generator), config.model.head)
    ids = torch.randint(1000, 20000, (BATCH, tokens), generator=generator).to(device.type)
    labels = torch.randint(0, 10, (BATCH,), generator=generator).to(device.type)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        with device.autocast():
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        times.append(time.perf_counter() - start)
    return round(1000 * median(times[3:]), 1)


def main() -> None:
    """Measure every combination and write what came out."""
    quiet_libraries()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = Config.from_hydra(compose("config"))
    rows = []
    for precision in ("bf16", "fp32"):
        for tokens in (20, 40):
            row: dict[str, object] = {"precision": precision, "tokens": tokens}
            for attention in ("eager", "sdpa"):
                detected = find_device(precision)
                device = Device(detected.type, detected.name, precision, None, attention)
                row[f"{attention}_milliseconds"] = step_milliseconds(config, device, tokens)
            rows.append(row)
            print(row, flush=True)
    written = {"machine": find_device("auto").name, "steps": rows}
    Path("benchmarks/attention.json").write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
