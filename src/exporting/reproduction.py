"""Load an export in a process of its own by the lines that are printed, and predict with it what its run was scored on.

Only there are the lines tried as a user will run them: this process has the run's model, its patched libraries and its
caches in memory, and would compare two of its own models.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from src.config.checks import LOSS
from src.config.schema import TaskConfig
from src.errors import UserError
from src.results.stored_run import config_from
from src.running.record import plain_value
from src.tasks.base import Row
from src.training.batches import Example, collate, encode
from src.training.device import find_device
from src.training.scoring import Scoring

PROGRAM = "from src.exporting.reproduction import main; main()"
RESULT = "reproduction.pt"
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
NAME = re.compile(r"\b(?:Auto\w+|BitsAndBytesConfig|PeftModel|torch)\b(?=[.(])")


@dataclass(frozen=True)
class Job:
    """The expressions that load an export, its run's config and precision, and the rows to predict by split.

    `stored` has what the run predicted of them, `tie` the share of the largest logit within which two are equal.
    """

    usage: str
    tokenizer_usage: str
    config: dict[str, Any]
    precision: str
    rows: dict[str, list[Row]]
    stored: dict[str, list[Any]]
    logit_rows: list[Row]
    tie: float


@dataclass(frozen=True)
class Reproduction:
    """By split, which of the stored predictions an export gives, and the logits of a job's `logit_rows` in float32.

    Ties are predictions that are others, while the stored ones are as likely within rounding.
    """

    equal: dict[str, int]
    ties: dict[str, int]
    logits: Tensor


def in_fresh_process(job: Job) -> Reproduction:
    """Do the job in a new Python.

    Raises:
        UserError: the export can't be loaded or can't predict there.
    """
    root = str(Path(__file__).parents[2])
    # What is needed is on this machine already, and a user's line must not depend on what else the hub has.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([root, *sys.path[1:]])}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PROGRAM, str(Path(folder) / RESULT)]
        done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise UserError(
                f"The export can't be used by the line that would be printed:\n  {imports_of(job.usage)}; {job.usage}\n"
                f"fails with: {(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}\nNothing was written."
            )
        return Reproduction(**torch.load(Path(folder) / RESULT))


def main() -> None:
    """Do the job on standard input and write what came out to the file that is named."""
    from src.quiet import quiet_libraries

    quiet_libraries()
    done = reproduce(Job(**json.load(sys.stdin)))
    torch.save(vars(done), sys.argv[1])


def reproduce(job: Job) -> Reproduction:
    """Load an export by its lines and predict."""
    config = config_from(job.config)
    model, tokenizer = _evaluated(job.usage), _evaluated(job.tokenizer_usage)
    device = find_device(job.precision)
    if next(model.parameters()).device.type != device.type:  # a quantized model is on its device, and can't be moved
        model.to(device.type)
    scoring = Scoring(tokenizer, config.task, device, config.trainer.eval_batch_size, config.seed)
    equal, ties = {}, {}
    for split, rows in job.rows.items():
        examples, stored = encode(rows, tokenizer, config.task), job.stored[split]
        loss = split == "validation" and config.task.validation_metric == LOSS
        found = scoring.answer_loss(model, examples).predictions if loss else scoring.predict(model, rows, examples)
        pairs = zip(examples, stored, found, strict=True)
        others = [each for each in pairs if not is_same(*each[1:], job.tie)]
        equal[split] = len(rows) - len(others)
        ties[split] = sum(
            is_tie(model, scoring, example, kept, job.tie)
            for example, kept, new in others
            if not isinstance(new, float)  # numbers are equal within rounding, or they aren't
        )
    if config.quantization == "none":  # what was loaded in bfloat16
        model.float()
    return Reproduction(equal, ties, logits_of(model, job.logit_rows, tokenizer, config.task))


def is_same(old: Any, new: Any, tolerance: float) -> bool:
    """Whether two predictions are equal: numbers but for rounding, lists as a table keeps them."""
    if isinstance(new, float):
        return abs(float(old) - new) <= tolerance * max(1.0, abs(new))
    return str(old) == str(plain_value(new))


@torch.inference_mode()
def is_tie(model: Any, scoring: Scoring, example: Example, stored: Any, tie: float) -> bool:
    """Whether a model finds a stored class, or every token of a stored text, as likely as what it would choose."""
    if scoring.task.architecture == "classifier":
        batch, chosen = {**example, "labels": 0}, [int(stored)]
    elif isinstance(stored, str) and "prompt" in example and scoring.task.samples == 1:
        chosen = scoring.tokenizer(stored, add_special_tokens=False)["input_ids"]
        if not scoring.task.stop and len(chosen) < scoring.task.max_new_tokens:
            chosen = [*chosen, scoring.tokenizer.eos_token_id]
        batch = {"input_ids": (example["prompt"] + chosen)[:-1], "labels": 0}
    else:
        return False
    tensors = collate([batch], scoring.tokenizer.pad_token_id)
    tensors.pop("labels")
    device = next(model.parameters()).device
    with scoring.device.autocast():
        logits = model.eval()(**{name: tensor.to(device) for name, tensor in tensors.items()}).logits
    logits = logits.float().reshape(-1, logits.shape[-1])[-len(chosen) :]  # (tokens, vocabulary) or (1, labels)
    gaps = logits.amax(-1) - logits.gather(-1, torch.tensor(chosen, device=device)[:, None])[:, 0]
    return bool(chosen) and bool((gaps <= tie * logits.abs().amax().clamp(min=1.0)).all())


def imports_of(usage: str) -> str:
    """The line that an expression needs before it."""
    names = sorted(set(NAME.findall(STRING.sub("", usage))))
    parts = ["import torch"] if "torch" in names else []
    parts += ["from peft import PeftModel"] if "PeftModel" in names else []
    of_transformers = [name for name in names if name not in ("torch", "PeftModel")]
    return "; ".join([*parts, f"from transformers import {', '.join(of_transformers)}"])


def _evaluated(usage: str) -> Any:
    names: dict[str, Any] = {}
    exec(imports_of(usage), names)
    return eval(usage, names)


@torch.inference_mode()
def logits_of(model: Any, rows: list[Row], tokenizer: PreTrainedTokenizerBase, task: TaskConfig) -> Tensor:
    """What a model says of rows in float32: (rows, labels), or (tokens, vocabulary) without the padding."""
    batch = collate(encode(rows, tokenizer, task), tokenizer.pad_token_id)
    batch.pop("labels")
    device = next(model.parameters()).device
    outputs = model.eval()(**{name: tensor.to(device) for name, tensor in batch.items()})
    logits: Tensor = outputs.logits.float().cpu()
    if task.architecture == "classifier":
        return logits
    length = batch["input_ids"].shape[1]  # virtual tokens of a prompt come before the text
    return logits[:, -length:][batch["attention_mask"].bool()]
