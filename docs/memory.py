"""Write docs/memory.md: whether the papers' studies fit one GPU of 80 GB with their own batches.

python -m docs.memory
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from src.config.schema import Config
from src.errors import UserError, first_line
from src.running.launch import planned
from src.studies.memory import Computing, StepMemory, largest_that_fits

PAGE = Path(__file__).with_name("memory.md")
CARD_BYTES, SHARE_FOR_USE = 80e9, 0.9
STUDIES = (
    "lora_glue", "lora_e2e", "lora_gpt3_rank", "lora_fa_glue", "lora_fa_llm", "lora_fa_memory", "lora_sb_glue",
    "lora_sb_arithmetic", "lora_sb_commonsense", "lora_xs_glue", "peft_metamathqa",
)  # fmt: skip
# What a run that doesn't fit is given, the first that is enough.
SMALLER: tuple[dict[str, Any], ...] = (
    {}, {"checkpointing": True}, {"checkpointing": True, "optimizer": "adamw_paged_8bit"},
)  # fmt: skip
INTRODUCTION = """\
# Memory

Written by `python -m docs.memory`. For each study of a paper, and each model in it: the run that takes most memory,
with the study's own batch, on one GPU of 80 GB of which a tenth is left for libraries and fragments. Where the whole
batch doesn't fit, its gradients are summed over so many texts at a time, which gives the same step
(`trainer.micro_batch_size`). Texts are taken to be as long as the task lets pass, and all their tokens to be answers.

GB are predicted: the step's forward pass on tensors without numbers, what autograd keeps of it added up. On a CPU that
is within 10 % of what the first step keeps (`tests/test_memory.py`); for a GPU see
[Benchmarks](../benchmarks/README.md). `plan=true` prints the same for any sweep and the device that it is asked on.

| study | model | run | batch | at a time | GB | weights | trained | kept | transient |
|---|---|---|--:|--:|--:|--:|--:|--:|--:|
"""


def rows_of(study: str) -> list[str]:
    """A row for each model of a study: of its largest run."""
    kinds: dict[tuple[str, ...], Config] = {}
    # Training alone, for which nobody has to agree to running code that a model wrote.
    for config in planned([f"experiment={study}", "trainer.score_test=false"], is_sweep=True):
        kind = (config.model.name, config.adapter.name, config.target.name, repr(config.trainer))
        if kind not in kinds or kinds[kind].rank < config.rank:
            kinds[kind] = config
    largest: dict[str, tuple[float, str]] = {}
    for config in kinds.values():
        needs, row = row_of(study, config)
        if needs > largest.get(config.model.name, (-1.0, ""))[0]:
            largest[config.model.name] = (needs, row)
    return [row for _, row in largest.values()]


def row_of(study: str, config: Config) -> tuple[float, str]:
    """The bytes that a run needs, and its row."""
    rank = f" r{config.rank}" if config.has_axis("rank") else ""
    name = f"| {study} | {config.model.name} | {config.adapter.name}{rank}"
    most = SHARE_FOR_USE * CARD_BYTES
    try:
        needed = largest_that_fits(config, most, Computing())[1].total
        for options in SMALLER:
            smaller = replace(config, trainer=replace(config.trainer, **options))
            texts, memory = largest_that_fits(smaller, most, Computing())
            if memory.total <= most:
                break
    except UserError as error:
        return 0.0, f"{name} | {config.trainer.batch_size} | - | {first_line(error)} | | | | |"
    said = "".join(f", `trainer.{key}={str(value).lower()}`" for key, value in options.items())
    return needed, f"{name}{said} | {config.trainer.batch_size} | {texts} | {parts_of_memory(memory)} |"


def parts_of_memory(memory: StepMemory) -> str:
    """The sum and its parts in GB, as cells."""
    parts = (memory.total, memory.weights, memory.trained, memory.activations, memory.transient)
    return " | ".join(f"{part / 1e9:.2f}" for part in parts)


def main() -> None:
    """Write the page."""
    rows = [row for study in STUDIES for row in rows_of(study)]
    PAGE.write_text(INTRODUCTION + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
