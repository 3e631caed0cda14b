"""The peaks of `benchmarks/gpu.json` beside what is predicted of them without a GPU.

    python -m benchmarks.gpu_predicted

Writes `benchmarks/gpu_predicted.json`: megabytes beside the weights, predicted and measured, of our plain steps.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.variants import ANSWER_SHARE, RANK
from src.config.composer import composer
from src.config.schema import Config
from src.quiet import quiet_libraries
from src.studies.memory import LOGIT_BYTES, Computing, step_memory
from src.training.loss import LOGITS_AT_ONCE

MEASURED, RESULT = Path(__file__).with_name("gpu.json"), Path(__file__).with_suffix(".json")
TASKS = {True: "docstrings", False: "reverse_words"}  # a classifier's, a language model's: nothing else of them is used


def config_of(row: dict[str, Any], classifies: bool) -> Config:
    """The run whose step was measured, on a base without dropout."""
    with composer() as reader:
        config: Config = reader.config([
            f"model={row['model']}", f"adapter={row['variant']}", f"rank={RANK}", "target=all_linear",
            f"task={TASKS[classifies]}",
        ])  # fmt: skip
    if classifies:
        config.model.config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return config


def predicted_bytes(row: dict[str, Any], classifies: bool) -> int:
    """What a step takes beside the weights; of a text's tokens the last quarter are answers."""
    config = config_of(row, classifies)
    memory = step_memory(config, row["texts"], row["tokens"], Computing(num_labels=10))
    beside = memory.activations + memory.trained
    if classifies:
        return beside
    vocabulary = int(config.model.sizes.get("vocab_size") or config.model.config.get("vocab_size") or 0)
    answers = row["texts"] * row["tokens"] // ANSWER_SHARE
    return beside + min(answers * vocabulary, LOGITS_AT_ONCE) * LOGIT_BYTES if vocabulary else beside + memory.transient


def main() -> None:
    """Predict what was measured and write both."""
    quiet_libraries()
    measured = json.loads(MEASURED.read_text())
    rows = []
    for row in measured["rows"]:
        if row["variant"] in ("lora", "lora_fa", "lora_sb", "dora", "vera"):
            predicted = predicted_bytes(row, classifies=row["model"] in ("minilm", "roberta_large"))
            ratio = predicted / 1e6 / row["peak_megabytes_beside_weights"]
            rows.append({
                **{key: row[key] for key in ("model", "texts", "tokens", "variant")},
                "predicted_megabytes": round(predicted / 1e6), "ratio": round(ratio, 3),
                "measured_megabytes": round(row["peak_megabytes_beside_weights"]),
            })  # fmt: skip
            print(rows[-1])
    RESULT.write_text(json.dumps({"card": measured["card"], "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
