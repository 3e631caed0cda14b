"""Memory of training steps on a GPU beside what is predicted, by the trainer itself.

    python -m benchmarks.memory

Models have the shapes of their yaml and random weights, and the studies' own batches of random texts, as long as the
task lets pass and, for a language model, all answer. The trainer makes three steps in the micro-batches that are
predicted to fit 80 GB. Writes `benchmarks/memory.json`: GB at the peak, predicted and measured.
"""

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.variants import base_of
from src.config.schema import Config
from src.quiet import quiet_libraries
from src.running.assemble import inject_empty
from src.running.launch import planned
from src.studies.memory import Computing, largest_that_fits
from src.training.device import find_device
from src.training.held_weights import hold_weights
from src.training.trainer import Recipe, train

RESULT = Path(__file__).with_suffix(".json")
CARD_BYTES, SHARE_FOR_USE = 80e9, 0.9
STEPS = 3
# Of each study the runs of one method, of which the one of most rank is made.
RUNS = [
    ("lora_sb_glue", "roberta_large", "lora", {}),
    ("lora_sb_glue", "roberta_large", "lora_sb", {}),
    ("lora_fa_memory", "roberta_large", "lora", {}),
    ("lora_fa_memory", "roberta_large", "lora_fa", {}),
    ("peft_metamathqa", "llama3_2_3b", "lora", {}),
    ("lora_sb_commonsense", "llama3_2_3b", "lora", {}),
    ("lora_sb_commonsense", "llama3_2_3b", "lora", {"checkpointing": True}),
    ("lora_sb_commonsense", "llama3_2_3b", "lora_sb", {}),
    ("lora_sb_arithmetic", "mistral_7b", "lora", {}),
    ("lora_sb_arithmetic", "mistral_7b", "lora", {"checkpointing": True}),
]


def config_of(study: str, model: str, adapter: str, options: dict[str, Any]) -> Config:
    """The study's run of a method on a model that has the largest rank."""
    configs = planned([f"experiment={study}", "trainer.score_test=false"], is_sweep=True)
    alike = [config for config in configs if (config.model.name, config.adapter.name) == (model, adapter)]
    config = max(alike, key=lambda one: one.rank)
    trainer = replace(config.trainer, max_steps=STEPS, epochs=None, eval_every=STEPS + 1, **options)
    return replace(config, trainer=trainer)


def examples_of(config: Config, vocabulary: int) -> list[dict[str, Any]]:
    """Random texts for one batch."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.trainer.batch_size, config.task.max_length)
    ids = torch.randint(5, vocabulary, shape, generator=generator).tolist()
    if config.task.architecture == "classifier":
        return [{"input_ids": one, "labels": index % 2} for index, one in enumerate(ids)]
    return [{"input_ids": one, "labels": one} for one in ids]


def row_of(study: str, name: str, adapter: str, options: dict[str, Any]) -> dict[str, Any]:
    """A run's memory, predicted and measured."""
    config = config_of(study, name, adapter, options)
    texts, predicted = largest_that_fits(config, SHARE_FOR_USE * CARD_BYTES, Computing(num_labels=10))
    model = base_of(name, (1, 8), "cuda").model
    injected = inject_empty(config, model)
    hold_weights(injected.model, torch.bfloat16)
    settings = replace(config.trainer, micro_batch_size=texts)
    recipe = Recipe(settings, config.lr, pad_token_id=0, seed=0, device=find_device("bf16"))
    outcome, _ = train(
        injected, examples_of(config, model.config.vocab_size), recipe, validate=_never, report=lambda step, found: None
    )
    return {
        "study": study, "model": name, "adapter": adapter, "rank": config.rank, **options,
        "batch": config.trainer.batch_size, "texts_at_once": texts, "tokens": config.task.max_length,
        "predicted_gigabytes": round(predicted.total / 1e9, 2),
        "measured_gigabytes": round((outcome.peak_allocated_bytes or 0) / 1e9, 2),
        "kept_predicted_gigabytes": round(predicted.activations / 1e9, 2),
        "kept_measured_gigabytes": round(outcome.saved_for_backward_bytes / 1e9, 2),
    }  # fmt: skip


def _never() -> Any:
    raise AssertionError("nothing is validated here")


def main() -> None:
    """Measure all runs, each after the memory of the one before is given back."""
    quiet_libraries()
    rows: list[dict[str, Any]] = []
    for run in RUNS:
        rows.append(row_of(*run))
        print(rows[-1], flush=True)
        machine = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
        RESULT.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
