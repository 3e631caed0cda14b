"""The script one writes without this project: PEFT and the HF Trainer with their defaults, one run a process.

    python -m benchmarks.plain_peft [bf16=true] [eval_batch=128] [attention=eager] [by_length=true]

Same rows, model, targets, rank, steps, batch size and learning rate as
`python -m src.run adapter=lora rank=8 target=all_linear`; float32, padding to the longest of each random batch. One has
to know of what the options ask for.
"""

import json
import tempfile
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from src.config.arguments import options
from src.config.composer import CONF
from src.config.schema import Config
from src.models.base_model import find_weights
from src.tasks.base import load_task
from src.training.trainer import warmup_steps


def accuracy(prediction: Any) -> dict[str, float]:
    """Share of right classes, in the form the Trainer asks for."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def main() -> None:
    """Train once and print the scores as JSON."""
    asked = options(bf16="false", eval_batch="8", attention="sdpa", by_length="false")
    with initialize_config_dir(CONF, version_base="1.3"):
        config = Config.from_hydra(compose("config", ["adapter=lora", "rank=8", "target=all_linear"]))
    data = load_task(config).data
    folder = find_weights(config.model)
    assert folder is not None
    assert config.lr is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=len(data.label_names), attn_implementation=asked["attention"]
    )
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=8,
        lora_alpha=16,
        target_modules=["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
        exclude_modules=["bert.pooler.dense"],
    )
    model = get_peft_model(model, lora)
    splits: dict[str, Dataset[Any]] = {
        split: [
            {**tokenizer(row["text"], truncation=True, max_length=config.task.max_length), "labels": row["label"]}
            for row in rows
        ]  # type: ignore[misc]
        for split, rows in data.splits.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=config.trainer.steps,
            per_device_train_batch_size=config.trainer.batch_size,
            learning_rate=config.lr,
            warmup_steps=warmup_steps(config.trainer),
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=asked["bf16"] == "true",
            per_device_eval_batch_size=int(asked["eval_batch"]),
            train_sampling_strategy="group_by_length" if asked["by_length"] == "true" else "random",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=splits["train"],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
        )
        trainer.train()
        scores = {split: trainer.evaluate(splits[split])["eval_accuracy"] for split in ("validation", "test")}
    print(json.dumps(scores | {"trained": model.get_nb_trainable_parameters()[0]}))


if __name__ == "__main__":
    main()
