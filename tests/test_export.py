"""Exports: what PEFT and transformers load the plain way computes what the run's own model computes."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from src import export as program
from src.config.schema import Config
from src.errors import UserError
from src.exporting import export as exporting
from src.exporting import peft_adapter
from src.exporting.export import Export, export
from src.exporting.reproduction import is_same, is_tie, logits_of, reproduce
from src.exporting.stored import _first_of_each
from src.files import write_json
from src.models.base_model import find_weights, load_base
from src.results.identity import decisive
from src.results.store import ADAPTER, PREDICTIONS, RESULT, read_all, read_record
from src.results.stored_run import command, config_of, finished_run
from src.running.assemble import restored
from src.running.lifecycle import run
from src.running.prepare import prepare
from src.running.sweep import Plan
from src.tasks.base import load_task
from tests.conftest import ROOT, TINY, composed

IDS = torch.tensor([[5, 9, 13, 4, 8, 40, 33], [7, 7, 61, 2, 19, 3, 90]])
# method: rank of the LoRA that it is
LINEAR = {
    "lora": 3,
    "rslora": 3,
    "pissa": 6,  # the factors as trained, and those at the start
    "dora": 3,
    "dylora": 3,
    "lora_fa": 3,
    "lora_fa_v1": 3,
    "lora_xs": 3,
    "lora_sb": 3,
    "vera": 3,
}
SMALL = ["trainer=smoke", "trainer.eval_limit=16", "trainer.max_steps=3", "tracking=none"]
CLASSIFIER = ["adapter=lora", "rank=4", "target=qv", "lr=0.05", *SMALL]
RATES = {"lora_sb": 0.3, "lora_xs": 3.0, "vera": 0.5}  # high enough for six steps to show
GPT2 = [
    *("model=gpt2_medium", "model.init_seed=0", "model.hub_id=null", "model.layers=2", "model.sizes.n_embd=12"),
    *("model.sizes.n_layer=2", "model.sizes.n_head=3", "model.sizes.n_positions=64"),
    *(
        f"model.roles.{role}.{side}_features=12"
        for role in ("query", "key", "value", "output")
        for side in ("in", "out")
    ),
    *("model.roles.ffn_up.in_features=12", "model.roles.ffn_up.out_features=48"),
    *("model.roles.ffn_down.in_features=48", "model.roles.ffn_down.out_features=12"),
]


@pytest.fixture(autouse=True)
def one_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load exports in this process, by the same lines: a fresh one takes seconds, and `fresh_process` tests have it."""
    if "fresh_process" not in request.fixturenames:
        monkeypatch.setattr(exporting, "in_fresh_process", reproduce)


@pytest.fixture
def fresh_process() -> None:
    """For a test whose exports are checked as a user's are, in a process of their own."""


class Runs:
    """Makes runs once for all tests, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, ...], Path] = {}

    def __call__(self, *overrides: str) -> Path:
        if overrides not in self.made:
            config = composed(*overrides, f"results_dir={self.folder}")
            plan = Plan.of([config])
            assert run(config, plan) == "done"
            self.made[overrides] = Path(plan.folders[0])
        return self.made[overrides]

    def tiny(self, adapter: str, *overrides: str) -> Path:
        rate = [f"lr={RATES.get(adapter, 0.05)}"]
        return self(*TINY, f"adapter={adapter}", "rank=3", "trainer.max_steps=6", *rate, *overrides)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@torch.inference_mode()
def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    written: Tensor = model.eval()(input_ids=ids).logits
    return written


def run_model(folder: Path, num_labels: int = 0) -> nn.Module:
    """The run's model: its adapter, as saved, on its base."""
    _, config = finished_run(folder)
    base = load_base(config.model, num_labels=num_labels, attention="eager", quantization=config.quantization)
    return restored(config, base, folder / ADAPTER).model


def base_logits(folder: Path) -> Tensor:
    _, config = finished_run(folder)
    return logits(load_base(config.model, num_labels=0, attention="eager").module)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_what_was_trained_on_a_base_in_bfloat16_is_exported_on_it_in_float32(
    runs: Runs, tmp_path: Path, kind: str
) -> None:
    folder = runs.tiny("lora", "model.dtype=bfloat16", "trainer.precision=bf16")
    done = export(folder, kind, tmp_path / "out")
    assert done.deviation < 1e-5
    weights = load_file(next((tmp_path / "out").glob("*.safetensors")))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("adapter", LINEAR)
def test_peft_loads_a_linear_method_onto_the_plain_base(runs: Runs, tmp_path: Path, adapter: str) -> None:
    folder = runs.tiny(adapter)
    done = export(folder, "peft", tmp_path / "out")
    expected = logits(run_model(folder))
    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base"), str(tmp_path / "out")
    )
    assert_close(logits(model), expected)
    with model.disable_adapter():
        assert_close(logits(model), base_logits(folder))
    assert (expected - base_logits(folder)).abs().max() > 0.05
    settings = model.peft_config["default"]
    assert settings.r == LINEAR[adapter]
    assert settings.use_dora == (adapter == "dora")
    assert settings.base_model_name_or_path == str(tmp_path / "out" / "base")
    assert done.deviation < 1e-5


@pytest.mark.parametrize("adapter", [*LINEAR, "full", "last_k", "peft/ia3", "peft/vera"])
def test_transformers_alone_loads_a_merged_model(runs: Runs, tmp_path: Path, adapter: str) -> None:
    folder = runs.tiny(adapter)
    export(folder, "merged", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_close(logits(model), logits(run_model(folder)))
    assert (logits(model) - base_logits(folder)).abs().max() > 0.01
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("a word: <eos>")["input_ids"] == load_tokenizer()("a word: <eos>")["input_ids"]


def load_tokenizer() -> Any:
    return load_base(composed(*TINY).model, num_labels=0, attention="eager").tokenizer


def test_a_classifier_takes_its_head_along(runs: Runs, tmp_path: Path) -> None:
    folder = runs(*CLASSIFIER)
    expected = logits(run_model(folder, num_labels=10), IDS + 1000)
    export(folder, "peft", tmp_path / "peft")
    export(folder, "merged", tmp_path / "merged")
    weights = find_weights(composed().model)
    assert weights is not None
    plain = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=10)
    assert_close(logits(PeftModel.from_pretrained(plain, str(tmp_path / "peft")), IDS + 1000), expected)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert_close(logits(merged, IDS + 1000), expected)
    assert list(merged.config.id2label.values()) == load_task(composed()).data.label_names
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert settings["revision"] == composed().model.revision
    assert settings["modules_to_save"] == ["classifier"]
    names = [f"bert.encoder.layer.{layer}.attention.self.{role}" for layer in range(6) for role in ("query", "value")]
    assert sorted(settings["target_modules"]) == names


@pytest.mark.parametrize("adapter", ["peft/ia3", "peft/prompt_tuning", "peft/vera"])
def test_a_run_of_peft_s_own_method_is_saved_as_that_method(runs: Runs, tmp_path: Path, adapter: str) -> None:
    folder = runs.tiny(adapter)
    export(folder, "peft", tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base")
    model: Any = PeftModel.from_pretrained(plain, str(tmp_path / "out"))
    assert_close(logits(model), logits(run_model(folder)))
    assert type(model.active_peft_config) is type(run_model(folder).active_peft_config)


def test_a_head_goes_with_a_run_of_peft_s_own_method(runs: Runs, tmp_path: Path) -> None:
    folder = runs("adapter=peft/ia3", *SMALL)
    export(folder, "peft", tmp_path / "out")
    weights = find_weights(composed().model)
    assert weights is not None
    plain = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=10)
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "out"))
    assert_close(logits(loaded, IDS + 1000), logits(run_model(folder, num_labels=10), IDS + 1000))


def test_fused_projections_are_merged_under_their_original_names(runs: Runs, tmp_path: Path) -> None:
    folder = runs(*TINY, *GPT2, "adapter=lora", "rank=2", "lr=0.1", "trainer.max_steps=6", "trainer.precision=fp32")
    export(folder, "merged", tmp_path / "out")
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(run_model(folder)))
    assert "transformer.h.1.attn.c_attn.weight" in load_file(tmp_path / "out" / "model.safetensors")
    with pytest.raises(UserError, match=r"several projections in one matrix(.|\n)*--format merged"):
        export(folder, "peft", tmp_path / "peft")


def test_what_peft_cannot_express_or_merge_is_refused_and_nothing_is_written(runs: Runs, tmp_path: Path) -> None:
    refusals = {
        ("full", "peft"): r"PEFT has no adapter that is what adapter=full is.\nUse --format merged",
        ("houlsby", "peft"): r"PEFT has no adapter that is what adapter=houlsby is.\nhoulsby adds a bottleneck",
        ("houlsby", "merged"): r"houlsby adds a bottleneck with an activation after the layer, so it can't be merged",
        ("peft/prompt_tuning", "merged"): r"peft_prompt_tuning can't be merged: it learns a prompt",
    }
    for (adapter, kind), message in refusals.items():
        with pytest.raises(UserError, match=message):
            export(runs.tiny(adapter), kind, tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quantized(runs: Runs) -> Callable[[str], Path]:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed: pip install -e '.[quantization]'")
    return lambda adapter: runs.tiny(adapter, "quantization=nf4")


@pytest.mark.parametrize("adapter", ["lora", "pissa", "peft/ia3"])
def test_a_quantized_run_is_merged_onto_the_dequantized_weights(
    quantized: Callable[[str], Path], tmp_path: Path, adapter: str
) -> None:
    folder = quantized(adapter)
    done = export(folder, "merged", tmp_path / "out")
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(run_model(folder)))
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert "merged onto the dequantized nf4 weights" in done.written.description
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["run_id"] == folder.name
    assert (facts["format"], facts["base_weights"]) == ("merged", "nf4")
    assert facts["checked"]["largest_logit_deviation"] == done.deviation


def test_an_adapter_of_a_quantized_run_says_how_to_load_its_base(
    quantized: Callable[[str], Path], tmp_path: Path
) -> None:
    done = export(quantized("lora"), "peft", tmp_path / "out")
    assert 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")' in done.written.usage
    assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base")), base_logits(quantized("lora"))
    )
    with pytest.raises(UserError, match=r"adapter=pissa rounded other weights to nf4(.|\n)*--format merged"):
        export(quantized("pissa"), "peft", tmp_path / "pissa")


def test_an_export_that_is_not_the_run_s_model_never_appears(runs: Runs, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(peft_adapter, "_fill", lambda layer, factors: None)
    with pytest.raises(UserError, match="The export doesn't compute what the run's model does: logits differ by up to"):
        export(runs.tiny("lora"), "peft", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_cut_off_leaves_nothing(runs: Runs, tmp_path: Path, monkeypatch: Any) -> None:
    def interrupted(*args: Any) -> float:
        assert any(path.name == "model.safetensors" for path in tmp_path.rglob("*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_deviation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(runs.tiny("lora"), "merged", tmp_path / "a" / "b" / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_an_empty_folder_and_no_other(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export(runs.tiny("lora"), "merged", tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"empty exists already.\nDelete it, or name another folder with --to"):
        export(runs.tiny("lora"), "merged", tmp_path / "empty")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_leaves_the_base_and_the_random_state_as_they_were(runs: Runs, tmp_path: Path) -> None:
    folder = runs.tiny("pissa")
    before, state = base_logits(folder), torch.random.get_rng_state()
    for kind in ("peft", "merged"):
        export(folder, kind, tmp_path / kind)
    assert torch.equal(base_logits(folder), before)
    assert torch.equal(torch.random.get_rng_state(), state)


def call(monkeypatch: Any, capsys: Any, *arguments: object) -> tuple[int, str, str]:
    """Call the program in this process: its exit status, what it printed and what it complained about."""
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    capsys.readouterr()  # of the run that is exported
    status = 0
    try:
        program.main()
    except SystemExit as end:
        status = int(end.code or 0)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_program_exports_beside_the_run_unless_told(runs: Runs, monkeypatch: Any, capsys: Any) -> None:
    folder = runs.tiny("rslora")
    status, out, err = call(monkeypatch, capsys, folder, "--format", "merged")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == f"{folder}/export/merged: a LlamaForCausalLM in float32"
    assert "checked in a fresh process: it gives 8 of 8 validation, 8 of 8 test predictions that are stored" in out
    assert "its logits differ from the run's by" in out
    assert f'load it with: AutoModelForCausalLM.from_pretrained("{folder}/export/merged")' in out


def test_mistakes_get_a_message_and_status_2(runs: Runs, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    good = runs.tiny("lora")
    failed = _copied(good, tmp_path / "failed", state="diverged", error={"class": "Diverged", "message": "loss nan"})
    bare = _copied(good, tmp_path / "bare")
    (bare / ADAPTER).unlink()
    cases = {
        (good, "onnx"): "--format onnx is not known.\nAllowed: merged, peft.",
        (tmp_path / "nowhere", "peft"): "nowhere is not the folder of a run: it has no result.json.\nName one, as in",
        (runs.folder, "peft"): f"it has no result.json.\nName a run, such as {runs.folder}/runs/",
        (failed, "peft"): "ended as diverged: loss nan\nMake it again: python -m src.run adapter=lora",
        (bare, "merged"): "has no adapter.safetensors: committed records come without.\nMake the run again",
    }
    for (folder, kind), message in cases.items():
        status, out, err = call(monkeypatch, capsys, folder, "--format", kind)
        assert (status, out) == (2, ""), err
        assert err.startswith("error: ")
        assert message in err
    assert not (bare / "export").exists()


def _copied(run_folder: Path, target: Path, **changes: Any) -> Path:
    target.mkdir()
    record = read_record(run_folder)
    assert record is not None
    write_json(target / RESULT, {**record, **changes})
    (target / ADAPTER).write_bytes((run_folder / ADAPTER).read_bytes())
    return target


def test_the_command_in_the_message_makes_the_same_run() -> None:
    again = [*GPT2, "adapter=lora", "task=reverse_words", "trainer=smoke", "rank=2", "adapter.options.lr_ratio=4"]
    configs = [
        composed(),
        composed("adapter=lora", "rank=4", "alpha=3", "seed=7", "trainer.max_steps=9", "target.roles=[value,query]"),
        composed("adapter=full", "lr=1e-5", "task.options.train_per_class=1200", "quantization=none"),
        composed(*TINY, "adapter=lora_sb", "quantization=nf4", "rank=5", "adapter.options.dropout=null"),
        composed(*again),
        *(config_of(record) for record in read_all(ROOT / "results" / "nine_runs")[:3]),
    ]
    for config in configs:
        made = composed(*shlex.split(command(config))[3:])
        assert decisive(made) == decisive(config)
        assert made.results_dir == config.results_dir
        assert made.model.sizes.get("n_embd") == config.model.sizes.get("n_embd") or not config.model.sizes


def test_a_config_stored_by_another_version_is_read() -> None:
    record = next(record for record in read_all(ROOT / "results" / "nine_runs") if record["state"] == "done")
    stored = json.loads(json.dumps(record))
    stored["config"]["trainer"]["an_option_of_old"] = 3
    del stored["config"]["trainer"]["score_test"], stored["config"]["adapter"]["options"]
    config = config_of(stored)
    assert isinstance(config, Config)
    assert config.model.roles["query"].out_features == 384
    assert (config.quantization, config.adapter.options, config.trainer.score_test) == ("none", {}, True)


def test_an_export_says_what_it_is(runs: Runs, tmp_path: Path) -> None:
    done = export(runs.tiny("pissa"), "peft", tmp_path / "out")
    assert isinstance(done, Export)
    assert done.written.description == f"an adapter of PEFT (LORA, rank 6) on {tmp_path}/out/base"


# ---- the printed line, the stored predictions


def test_the_printed_lines_load_the_export_in_a_fresh_process(
    runs: Runs, tmp_path: Path, monkeypatch: Any, capsys: Any, fresh_process: None
) -> None:
    folder = runs.tiny("lora")
    status, out, err = call(monkeypatch, capsys, folder, "--format", "peft", "--to", tmp_path / 'a "torch.d" folder')
    assert (status, err) == (0, "")
    printed = dict(line.split(": ", 1) for line in out.splitlines()[1:] if ": " in line)
    names: dict[str, Any] = {}
    exec(printed["after"], names)
    assert_close(logits(eval(printed["load it with"], names)), logits(run_model(folder)))
    assert eval(printed["its tokenizer"], names)("a word")["input_ids"] == load_tokenizer()("a word")["input_ids"]
    assert printed["checked in a fresh process"].endswith("predictions that are stored")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_a_line_that_fails_in_a_fresh_process_is_not_printed(
    runs: Runs, tmp_path: Path, monkeypatch: Any, kind: str, fresh_process: None
) -> None:
    """The hub's copy can't be had offline, though this process has the weights in memory."""
    monkeypatch.setattr(f"src.exporting.{'peft_adapter' if kind == 'peft' else 'merged_model'}.in_python",
                        lambda path: '"no/such-model"')  # fmt: skip
    message = r"can't be used by the line that would be printed:\n .*no/such-model(.|\n)*fails"
    with pytest.raises(UserError, match=message):
        export(runs.tiny("lora"), kind, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def changed(run_folder: Path, target: Path, column: str, change: Callable[[Any], Any], split: str = "test") -> Path:
    """A copy of a run in which the first stored item of a split has another value."""
    shutil.copytree(run_folder, target, ignore=shutil.ignore_patterns("export"))
    table = pd.read_parquet(target / PREDICTIONS)
    first = table.index[table["split"] == split][0]
    table.loc[first, column] = change(table.loc[first, column])
    table.to_parquet(target / PREDICTIONS, index=False)
    return target


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_an_export_that_does_not_give_a_stored_prediction_is_refused(runs: Runs, tmp_path: Path, kind: str) -> None:
    folder = changed(runs.tiny("lora"), tmp_path / "run", "prediction", lambda text: f"not {text}")
    with pytest.raises(UserError, match=r"1 of 8 test predictions aren't those that are stored.\nNothing was written"):
        export(folder, kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_is_held_against_the_rows_that_were_scored(runs: Runs, tmp_path: Path) -> None:
    folder = changed(runs.tiny("lora"), tmp_path / "run", "reference", lambda text: f"not {text}")
    with pytest.raises(UserError, match=r"scored on other test rows than task=reverse_words has now"):
        export(folder, "merged", tmp_path / "out")
    (folder / PREDICTIONS).unlink()
    with pytest.raises(UserError, match=r"has no predictions.parquet, with which an export is compared.\nMake the run"):
        export(folder, "merged", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_first_items_of_every_set_of_a_split_are_compared() -> None:
    rows = [{"set": name} for name in "aabbbaab"]
    assert _first_of_each(rows, 2) == [0, 1, 2, 3]
    assert _first_of_each(rows, 3) == [0, 1, 2, 3, 4, 5]
    assert _first_of_each([{}] * 5, 3) == [0, 1, 2]


def test_weights_of_a_folder_are_the_base_of_an_export_also_where_the_yaml_names_the_hub(
    runs: Runs, tmp_path: Path
) -> None:
    """The folder's weights are other ones than the hub's, which would load as well and compute something else."""
    weights = find_weights(composed().model)
    assert weights is not None
    other = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=10)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.5)
    other.save_pretrained(tmp_path / "mine")
    AutoTokenizer.from_pretrained(weights).save_pretrained(tmp_path / "mine")
    folder = runs(*CLASSIFIER, "model.weights_sha256=null", f"model.path={tmp_path / 'mine'}")
    done = export(folder, "peft", tmp_path / "out")
    settings = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == (str(tmp_path / "mine"), None)
    assert f'from_pretrained("{tmp_path / "mine"}", num_labels=10)' in done.written.usage
    assert json.loads((tmp_path / "out/export.json").read_text())["base"] == str(tmp_path / "mine")
    model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=10)
    assert_close(logits(model, IDS + 1000), logits(run_model(folder, num_labels=10), IDS + 1000))


def test_a_base_of_the_hub_is_named_with_its_revision_and_a_package_s_by_its_folder(
    tmp_path: Path, monkeypatch: Any
) -> None:
    config = composed()
    weights = find_weights(config.model)
    assert peft_adapter._loaded_from(config, tmp_path) == f'"{weights}"'
    monkeypatch.setattr("src.models.base_model._package_folder", lambda model: None)
    monkeypatch.setattr(peft_adapter, "find_weights", lambda model: tmp_path)
    line = f'"sentence-transformers/all-MiniLM-L6-v2", revision="{config.model.revision}"'
    assert peft_adapter._loaded_from(config, tmp_path) == line


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_tokenizer_and_decoding_go_along(runs: Runs, tmp_path: Path, kind: str) -> None:
    folder = runs.tiny("lora")
    export(folder, kind, tmp_path / "out")
    _, config = finished_run(folder)
    tokenizer, decoding = load_tokenizer(), GenerationConfig.from_pretrained(tmp_path / "out")
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (saved.pad_token, saved.eos_token) == (tokenizer.pad_token, tokenizer.eos_token)
    assert decoding.max_new_tokens == config.task.max_new_tokens
    assert (decoding.eos_token_id, decoding.do_sample) == (tokenizer.eos_token_id, False)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_what_bitsandbytes_rounds_otherwise_is_measured_and_said(
    runs: Runs, tmp_path: Path, monkeypatch: Any, capsys: Any, kind: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes isn't installed: pip install -e '.[quantization]'")
    folder = runs.tiny("lora", f"quantization={kind}")
    status, out, err = call(monkeypatch, capsys, folder, "--format", "peft", "--to", tmp_path / "out")
    assert (status, err) == (0, "")
    assert "note: bitsandbytes' own layers, which PEFT and transformers load, round otherwise than the run's" in out
    checked = json.loads((tmp_path / "out/export.json").read_text())["checked"]
    names: dict[str, Any] = {}
    exec(out.rpartition("after: ")[2], names)
    loaded = eval(next(line for line in out.splitlines() if line.startswith("load it with: "))[14:], names)
    _, config = finished_run(folder)
    rows, tokenizer = load_task(config).data.splits["validation"][:8], load_tokenizer()
    theirs, own = (logits_of(model, rows, tokenizer, config.task) for model in (loaded, run_model(folder)))
    assert checked["largest_logit_deviation"] == pytest.approx((theirs - own).abs().max().item(), rel=1e-3)
    assert checked["largest_logit_deviation"] > 0  # how much depends on the processor


def test_a_stored_text_is_a_tie_where_every_token_of_it_is_as_likely_as_the_models_own(runs: Runs) -> None:
    folder = runs.tiny("lora")
    _, config = finished_run(folder)
    prepared = prepare(config, folder)
    rows = prepared.task.data.splits["test"][:2]
    examples = prepared.examples["test"][:2]
    model: Any = run_model(folder)
    own = prepared.scoring.predict(model, rows, examples)
    assert all(is_tie(model, prepared.scoring, *pair, 1e-4) for pair in zip(examples, own, strict=True))
    for wrong in (own[0] + "~", own[0] + "~~"):
        assert not is_tie(model, prepared.scoring, examples[0], wrong, 1e-4)
        assert is_tie(model, prepared.scoring, examples[0], wrong, 1e4)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (3, 3, True),
        ("3", 3, True),  # in a table that has texts too
        (3, 4, False),
        (2.5, 2.50001, True),
        (2.5, 2.51, False),
        ("0.125", 0.125, True),
        (1000.0, 1000.05, True),
        (float("nan"), 1.0, False),
        ("a", "a ", False),
        ('["a", "é"]', ["a", "é"], True),
        ('["a"]', ["b"], False),
    ],
)
def test_predictions_are_equal_but_for_a_numbers_rounding(old: Any, new: Any, same: bool) -> None:
    assert is_same(old, new, 1e-4) == same


def test_a_number_that_is_another_is_no_tie(runs: Runs, tmp_path: Path) -> None:
    by_loss = runs.tiny("lora", "task.validation_metric=loss")
    folder = changed(by_loss, tmp_path / "run", "prediction", lambda loss: str(float(loss) + 0.5), split="validation")
    with pytest.raises(UserError, match=r"1 of 8 validation predictions aren't those that are stored"):
        export(folder, "peft", tmp_path / "out")


def test_a_half_written_export_is_no_export(runs: Runs, tmp_path: Path) -> None:
    """What a killed export left beside its place is in nobody's way."""
    (tmp_path / ".out.1").mkdir()
    (tmp_path / ".out.1/config.json").write_text("{")
    export(runs.tiny("lora"), "merged", tmp_path / "out")
    with pytest.raises(UserError, match="out exists already"):
        export(runs.tiny("lora"), "peft", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file exists already"):
        export(runs.tiny("lora"), "peft", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_a_classifiers_stored_classes_are_those_of_its_export_in_a_fresh_process(
    runs: Runs, tmp_path: Path, kind: str, fresh_process: None
) -> None:
    done = export(runs(*CLASSIFIER), kind, tmp_path / kind)
    assert {split: counts[2] for split, counts in done.reproduced.items()} == {"validation": 16, "test": 16}
    assert all(same + ties == total for same, ties, total in done.reproduced.values())
