"""The memory that is predicted before a run is what its first step keeps, on a CPU where it can be measured."""

from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.studies.memory import Computing, StepMemory, largest_that_fits, step_memory
from src.training import trainer as training
from tests.conftest import composed
from tests.test_training import run

SHORT = ["trainer.max_steps=1", "tracking=none", "trainer.eval_limit=2", "forgetting=none"]
MINILM = [*SHORT, "model=minilm", "task=docstrings", "task.max_length=32"]
LLAMA = [*SHORT, "model=tiny_llama", "task=reverse_words", "task.max_length=24"]


@pytest.fixture
def shapes(monkeypatch: Any) -> list[tuple[int, int]]:
    """Texts and tokens of each batch that is trained on."""
    seen: list[tuple[int, int]] = []
    step = training._AdapterTrainer.training_step

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(inputs["input_ids"].shape))
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(training._AdapterTrainer, "training_step", spy)
    return seen


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "overrides",
    [
        [*MINILM, "adapter=lora"],
        [*MINILM, "adapter=lora_fa"],
        [*MINILM, "adapter=lora_sb", "trainer.calibration_samples=4"],
        [*MINILM, "adapter=dora"],
        [*MINILM, "adapter=vera"],
        [*MINILM, "adapter=houlsby"],
        [*MINILM, "adapter=full"],
        [*MINILM, "adapter=bitfit"],
        [*MINILM, "adapter=lora", "target=qv"],
        [*MINILM, "adapter=lora", "trainer.checkpointing=true"],
        [*LLAMA, "adapter=lora"],
        [*LLAMA, "adapter=lora_fa", "adapter.options.dropout=0.1"],
    ],
    ids=lambda overrides: " ".join(overrides[7:]) + (" llama" if "model=tiny_llama" in overrides else ""),
)
def test_it_is_what_the_first_step_keeps(
    overrides: list[str], precision: str, shapes: list[tuple[int, int]], tmp_path: Path
) -> None:
    config = composed(*overrides, f"trainer.precision={precision}", f"results_dir={tmp_path}")
    record = run(config, tmp_path / "run")
    (texts, tokens), *_ = shapes
    memory = step_memory(config, texts, tokens, Computing(precision, "eager", num_labels=10))
    measured = record["memory"]["saved_for_backward_bytes"]
    assert memory.activations == pytest.approx(measured, rel=0.1)


def test_each_setting_moves_its_own_part() -> None:
    def predicted(*overrides: str) -> StepMemory:
        config = composed(*MINILM, "adapter=lora", *overrides)
        return step_memory(config, 8, 32, Computing())

    plain, coarse, again = (
        predicted(),
        predicted("trainer.optimizer=adamw_8bit"),
        predicted("trainer.checkpointing=true"),
    )
    assert coarse.trained < 0.6 * plain.trained
    assert (coarse.weights, coarse.activations) == (plain.weights, plain.activations)
    assert again.activations < 0.4 * plain.activations
    assert 0 < again.transient < 0.3 * plain.activations
    assert predicted("quantization=int8").weights < plain.weights
    assert plain.total == plain.weights + plain.trained + plain.activations + plain.transient


def test_nothing_is_made_of_the_models_size() -> None:
    """Mistral's weights alone are 14.5 GB."""
    config = composed(*SHORT, "model=mistral_7b", "task=reverse_words", "adapter=lora", "rank=8")
    memory = step_memory(config, 4, 512, Computing())
    assert 14.4e9 < memory.weights < 14.8e9
    assert memory.activations > 5e9


def test_a_batch_is_halved_until_it_fits() -> None:
    config = composed(*MINILM, "adapter=lora", "trainer.batch_size=24")
    whole, half = (step_memory(config, texts, 32, Computing()).total for texts in (24, 12))
    assert largest_that_fits(config, whole, Computing())[0] == 24
    assert largest_that_fits(config, whole - 1, Computing())[0] == 12
    assert largest_that_fits(config, half - 1, Computing())[0] == 6
    texts, memory = largest_that_fits(config, 1, Computing())
    assert (texts, memory.total > 1) == (1, True)
    asked = composed(*MINILM, "adapter=lora", "trainer.batch_size=24", "trainer.micro_batch_size=5")
    assert largest_that_fits(asked, 1, Computing())[0] == 5


def test_what_cannot_be_traced_is_said() -> None:
    config = composed(*MINILM, "adapter=peft/prefix_tuning")
    with pytest.raises(UserError, match=r"peft|predicted"):
        step_memory(config, 2, 8, Computing())
