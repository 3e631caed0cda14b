"""Training and scoring: the same for all methods, repeatable to the bit, and able to learn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from src.adapters.inject import adapters
from src.config.schema import Config
from src.errors import Diverged, UserError
from src.models.base_model import load_base
from src.results.digests import tensor_digests
from src.results.schema import Record
from src.results.store import ADAPTER, FIT, PREDICTIONS
from src.running import assemble, fitting
from src.running.execute import execute
from src.running.fitting import Fit
from src.running.prepare import _first_of_each_set, prepare
from src.streams import stream_generator
from src.tasks.base import load_task
from src.training import trainer as training
from src.training.batches import encoded_splits
from src.training.device import find_device
from src.training.scoring import Scoring
from src.training.trainer import Training
from tests.conftest import composed
from tests.test_glue import files_of, made_up, write_original

Make = Callable[..., Config]


def run(config: Config, folder: Path) -> Record:
    folder.mkdir(parents=True, exist_ok=True)
    return execute(config, folder, report=lambda step, metrics: None)


def test_the_same_run_twice_is_equal_to_the_bit(tiny: Make, tmp_path: Path) -> None:
    first, again = (run(tiny("adapter=lora", "rank=3"), tmp_path / name) for name in ("a", "b"))
    assert first["metrics"] == again["metrics"]
    assert first["history"] == again["history"]
    for file in (ADAPTER, PREDICTIONS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.slow
def test_another_seed_is_another_run(tiny: Make, tmp_path: Path) -> None:
    first, other = (run(tiny("adapter=lora", "rank=3", f"seed={seed}"), tmp_path / str(seed)) for seed in (0, 1))
    assert first["history"] != other["history"]


@pytest.mark.parametrize("adapter", ["lora_sb", "full", "lora_xs"])
def test_all_methods_see_the_same_batches(tiny: Make, tmp_path: Path, monkeypatch: Any, adapter: str) -> None:
    seen: dict[str, list[Any]] = {}
    step = training._AdapterTrainer.training_step

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault(current, []).append(inputs["input_ids"].tolist())
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(training._AdapterTrainer, "training_step", spy)
    for current in ("lora", adapter):
        run(tiny(f"adapter={current}", "rank=2", "trainer.max_steps=3"), tmp_path / current)
    assert len(seen["lora"]) == 3
    assert seen["lora"] == seen[adapter]


def test_full_fine_tuning_learns_to_spell_backwards(tiny: Make, tmp_path: Path) -> None:
    overrides = ["trainer=default", "adapter=full", "lr=3e-3", "trainer.max_steps=150", "trainer.batch_size=64"]
    easy = ["task.options.letters=abcdefgh", "task.options.max_letters=3", "task.options.train_size=400"]
    record = run(tiny(*overrides, *easy, "task.options.test_size=50", "task.options.validation_size=50"), tmp_path)
    losses = [point["loss"] for point in record["history"] if "loss" in point]
    assert losses[-1] < losses[0] / 4
    assert record["metrics"]["test"]["value"] >= 0.6
    assert record["parameters"]["base_frozen"] == 0


def test_a_batch_of_one_and_a_batch_of_many_answer_the_same(tiny: Make) -> None:
    config = tiny()
    base = load_base(config.model, num_labels=0, attention="eager")
    data = load_task(config).data
    examples = encoded_splits(config, base.tokenizer)["test"][:23]
    rows, device = data.splits["test"][:23], find_device("fp32")
    answers = [
        Scoring(base.tokenizer, config.task, device, batch_size=size).score(base.module, rows, examples)
        for size in (1, 7, 23)
    ]
    assert len({tuple(answer.predictions) for answer in answers}) == 1
    assert len(set(answers[0].predictions)) > 1


def test_the_score_is_that_of_the_adapter_on_disk(tiny: Make, tmp_path: Path, monkeypatch: Any) -> None:
    config = tiny("adapter=full", "lr=3e-3", "trainer.max_steps=40")
    learned = run(config, tmp_path / "a")

    def spoiled_file(path: Path) -> dict[str, torch.Tensor]:
        return {key: torch.zeros_like(tensor) for key, tensor in load_file(path).items()}

    monkeypatch.setattr(assemble, "load_file", spoiled_file)
    spoiled = run(config, tmp_path / "b")
    assert learned["history"] == spoiled["history"]
    assert spoiled["metrics"]["test"]["value"] == 0.0


def test_the_test_split_is_scored_last_and_once(tiny: Make, tmp_path: Path, monkeypatch: Any) -> None:
    config = tiny("adapter=lora", "rank=2")
    order: list[Any] = []
    data = load_task(config).data
    limit = config.trainer.eval_limit

    score = Scoring.score

    def spy(self: Scoring, model: Any, rows: Any, *args: Any) -> Any:
        order.extend(split for split in ("validation", "test") if rows == data.splits[split][:limit])
        return score(self, model, rows, *args)

    monkeypatch.setattr(Scoring, "score", spy)
    run(config, tmp_path)
    assert order[-1] == "test"
    assert order.count("test") == 1


def test_a_tuning_run_never_touches_the_test_split(tiny: Make, tmp_path: Path) -> None:
    record = run(tiny("adapter=lora", "rank=2", "trainer.score_test=false"), tmp_path)
    assert set(record["metrics"]) == {"validation"}


def test_a_loss_that_is_no_number_ends_the_run_as_diverged(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the training loss isn't finite at step 3"):
        run(tiny("adapter=full", "lr=1e30", "trainer.max_steps=20", "trainer.max_grad_norm=0"), tmp_path)


def test_a_run_leaves_the_base_model_as_it_was(tiny: Make, tmp_path: Path) -> None:
    config = tiny("adapter=full", "lr=0.1")
    base = load_base(config.model, num_labels=0, attention="eager").module
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    run(config, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())


def test_without_warm_up_lora_sb_starts_by_the_rate_itself(tiny: Make, tmp_path: Path) -> None:
    starts: dict[float, dict[str, torch.Tensor]] = {}
    for ratio, steps in ((0, 1), (0.5, 2)):  # the second has one step of warm-up
        length = [f"trainer.warmup_ratio={ratio}", f"trainer.max_steps={steps}"]
        prepared = prepare(tiny("adapter=lora_sb", "rank=2", "lr=0.25", *length), tmp_path)
        placed = adapters(fitting._injected(prepared).model)
        starts[ratio] = {name: adapter.get_parameter("lora_R").detach() for name, adapter in placed.items()}
    assert all(torch.equal(starts[0][name], start) for name, start in starts[0.5].items())
    assert all(start.abs().max().item() > 0.25 for start in starts[0].values())  # eta times a singular value of signs


def test_all_methods_start_from_the_same_head(tiny: Make) -> None:
    base = load_base(tiny().model, num_labels=0, attention="eager")
    heads = [base.fresh_copy(["lm_head"], stream_generator(7, "head_init")).lm_head.weight for _ in range(2)]
    assert torch.equal(*heads)
    assert not torch.equal(heads[0], base.module.lm_head.weight)
    other = base.fresh_copy(["lm_head"], stream_generator(8, "head_init")).lm_head.weight
    assert not torch.equal(heads[0], other)


def test_the_record_counts_what_the_optimizer_trains(tiny: Make, tmp_path: Path) -> None:
    record = run(tiny("adapter=lora_fa", "rank=3", "target=qv"), tmp_path)
    assert record["parameters"]["adapter_trained"] == 2 * 3 * (64 + 32)
    assert record["parameters"]["adapter_frozen"] == 2 * 3 * (64 + 64)
    assert record["scaling"] == 2.0
    assert record["provenance"]["device"]["precision"] in ("fp32", "bf16")


def test_lora_plus_trains_b_at_its_own_rate(tiny: Make, tmp_path: Path, monkeypatch: Any) -> None:
    create, rates = training._AdapterTrainer.create_optimizer, {}

    def spy(self: Any, model: Any = None) -> Any:
        optimizer = create(self, model)
        names = {id(parameter): name for name, parameter in self.injected.model.named_parameters()}
        for group in optimizer.param_groups:
            rates.update({names[id(parameter)].rpartition(".")[2]: group["lr"] for parameter in group["params"]})
        return optimizer

    monkeypatch.setattr(training._AdapterTrainer, "create_optimizer", spy)
    run(tiny("adapter=lora", "rank=2", "lr=0.01", "adapter.options.lr_ratio=16"), tmp_path)
    assert rates == {"lora_A": 0.01, "lora_B": 0.16}


@pytest.mark.parametrize("adapter", ["lora", "dora", "lora_sb", "vera", "pissa"])
def test_a_base_in_bfloat16_is_adapted_in_float32(adapter: str, tiny: Make, tmp_path: Path) -> None:
    config = tiny(f"adapter={adapter}", "rank=3", "model.dtype=bfloat16", "trainer.precision=bf16")
    record = run(config, tmp_path)
    assert record["identity"]["model"]["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / ADAPTER).values()} == {torch.float32}
    base = load_base(config.model, num_labels=0, attention="eager")
    assert {parameter.dtype for parameter in base.module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter=full"], r"adapter=full trains weights of the base model, for which model\.dtype=bfloat16"),
        (["model.dtype=float16"], r"model\.dtype=float16 is not known.\nAllowed: (.|\n)*float32"),
    ],
)
def test_what_bfloat16_is_too_coarse_for_is_refused(overrides: list[str], message: str, tiny: Make) -> None:
    with pytest.raises(UserError, match=message):
        tiny("model.dtype=bfloat16", *overrides)


def test_a_classifier_s_head_is_in_float32_on_a_base_in_bfloat16(tmp_path: Path) -> None:
    config = composed("model=minilm", "task=docstrings", "task.max_length=16", "model.dtype=bfloat16", "adapter=lora",
                      "trainer.precision=bf16", "trainer.max_steps=2", "trainer.eval_limit=8", "tracking=none",
                      "forgetting=none", f"results_dir={tmp_path}")  # fmt: skip
    run(config, tmp_path / "run")
    saved = load_file(tmp_path / "run" / ADAPTER)
    assert {name for name in saved if name.startswith("classifier")} == {"classifier.weight", "classifier.bias"}
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_a_base_in_bfloat16_is_refused_where_the_rest_computes_in_float32(tiny: Make, tmp_path: Path) -> None:
    config = tiny("adapter=lora", "rank=2", "model.dtype=bfloat16", "trainer.precision=fp32")
    with pytest.raises(UserError, match=r"computes in fp32\.\nSet trainer\.precision=bf16, or model\.dtype=float32"):
        run(config, tmp_path)


def test_a_run_that_failed_at_scoring_goes_on_from_its_adapter(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("adapter=lora", "rank=2", "seed=1")
    whole = run(config, tmp_path / "whole")

    def refuse(*args: Any) -> None:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as failing:
        failing.setattr("src.running.execute.restored", refuse)
        with pytest.raises(RuntimeError, match="no memory left"):
            run(config, tmp_path / "cut")
    assert (tmp_path / "cut" / FIT).exists()
    monkeypatch.setattr("src.running.fitting.train", refuse)  # a second training would fail
    again = run(config, tmp_path / "cut")
    parts = {"metrics", "history", "parameters", "scaling", "memory", "identity"}
    assert {key: part for key, part in again.items() if key in parts} == {
        key: part for key, part in whole.items() if key in parts
    }
    # The time of the attempt that trained belongs to the run.
    assert again["time"]["run_seconds"] > again["time"]["setup_seconds"] + again["time"]["train_seconds"]


FITTED = Fit(Training(), {}, None, 0.0, 0.0, {"device": "gpu, bf16", "torch": "2.13"}, {}, {"padding": 0.0})


@pytest.mark.parametrize("change", ["nothing", "device", "torch", "adapter", "cut off"])
def test_only_a_fit_of_this_adapter_on_this_machine_is_gone_on_from(tmp_path: Path, change: str) -> None:
    adapter, made_with = tmp_path / ADAPTER, dict(FITTED.made_with)
    save_file({"weight": torch.ones(3)}, adapter)
    replace(FITTED, tensors=tensor_digests(adapter)).write(tmp_path)
    if change == "adapter":
        save_file({"weight": torch.zeros(3)}, adapter)
    elif change == "cut off":
        adapter.write_bytes(adapter.read_bytes()[:-4])
    elif change != "nothing":
        made_with[change] = "another"
    assert (Fit.read(tmp_path, made_with) is None) == (change != "nothing")


def test_the_count_is_held_against_the_closed_form_also_where_python_drops_asserts(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "closed_form", lambda injected: 7)
    with pytest.raises(UserError, match=r"trains [\d,]+ parameters, and 7 by its closed form"):
        run(tiny("adapter=lora", "rank=2"), tmp_path)


@pytest.mark.parametrize("task", ["stsb", "mnli", "mrpc"])
def test_glue_s_shapes_of_data_run_to_their_records(task: str, tmp_path: Path) -> None:
    parts = {file: made_up(task, file, 40 if file == "train" else 12) for file in files_of(task)}
    root = write_original(tmp_path / "root", task, parts)
    config = composed(
        f"task={task}", f"task.data_dir={root}", "task.validation_size=9", "trainer=smoke", "adapter=lora"
    )
    record = run(config, tmp_path)
    test, predictions = record["metrics"]["test"], pd.read_parquet(tmp_path / PREDICTIONS)
    of_test = predictions[predictions["split"] == "test"]
    if task == "stsb":
        assert (test["name"], set(test["more"])) == ("pearson", {"spearman"})
        assert of_test["prediction"].nunique() > 3
        assert sorted(set(of_test["reference"])) == [0.0, 3.867, 5.0]
    if task == "mnli":
        assert set(test["sets"]) == {"matched", "mismatched"}
        assert test["value"] == pytest.approx(sum(test["sets"].values()) / 2)
        assert test["n"] == len(of_test) == 24
    if task == "mrpc":
        assert (test["name"], set(test["more"])) == ("accuracy", {"f1"})
    assert record["data"]["rows"] == {"train": 31, "validation": 9, "test": 24 if task == "mnli" else 12}
    inside = {f"inside_{split}" for split in ("train", "validation", "test")}
    assert set(record["data"]["overlap"]) == {"validation", "test", "test_validation"} | inside


def test_a_limit_takes_the_first_of_every_set() -> None:
    rows = [{"set": name} for name in "aabbbab"]
    assert _first_of_each_set(rows, 2) == [0, 1, 2, 3]
    assert _first_of_each_set(rows, None) == list(range(7))
    assert _first_of_each_set([{}] * 5, 3) == [0, 1, 2]
