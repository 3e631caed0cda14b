"""Every architecture with every kind of method, from a folder and a file to an export that predicts what is stored."""

from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.exporting import export as exporting
from src.exporting.export import export
from src.exporting.reproduction import reproduce
from src.results.store import read_record
from src.running.lifecycle import run
from src.running.sweep import Plan
from tests.architectures import DECODERS, ENCODERS
from tests.conftest import composed
from tests.test_inspect import described
from tests.tiny_models import saved, tiny_model, tiny_tokenizer

METHODS = ("lora", "lora_sb", "dora", "full", "bitfit", "head_only")
CASES = [
    *[(kind, "classifier") for kind in (*ENCODERS, *DECODERS, "t5", "bart")],
    *[(kind, "causal_lm") for kind in DECODERS],
]
TRAINER = [
    "tracking=none", "forgetting=none", "trainer=smoke", "trainer.max_steps=3", "trainer.eval_every=3",
    "trainer.eval_limit=12", "trainer.batch_size=4", "trainer.calibration_samples=8", "trainer.precision=fp32",
    "trainer.head_lr=0.01",
]  # fmt: skip
# What a method may say in place of training, and PEFT's format in place of an export.
NOT_TRAINED = {
    "bitfit": ("bitfit trains biases; this", "nothing to train"),
    "head_only": ("trains nothing of",),
}
NOT_EXPORTED = ("PEFT has no adapter that is", "keeps several projections in one matrix")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of classes and one of answers."""
    folder = tmp_path_factory.mktemp("letters")
    texts = [" ".join("abcdefghijklmnop"[i % 5 : i % 5 + 1 + i % 7]) for i in range(48)]
    classes = ["text,label", *(f"{text},{'odd' if len(text) % 4 == 1 else 'even'}" for text in texts)]
    answers = ["prompt,answer", *(f"{text},{text.split()[-1]} q" for text in texts)]
    files = {"classifier": classes, "causal_lm": answers}
    for name, lines in files.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return {name: folder / f"{name}.csv" for name in files}


def trained(kind: str, architecture: str, adapter: str, data: Path, folder: Path) -> Any:
    # T5 and BART read their classes where a text ends.
    ends = "$A </s>" if kind in ("t5", "bart") else "$A"
    saved(folder / "model", tiny_model(kind, architecture), tiny_tokenizer(ends))
    task = "classification" if architecture == "classifier" else "generation"
    lengths = ["task.max_length=24"]
    lengths += ["task.max_new_tokens=3", "model=tiny_llama"] if architecture == "causal_lm" else []
    config = composed(
        "task=own", f"task.kind={task}", f"task.path={data}", *lengths, f"adapter={adapter}", "rank=3",
        "target=all_linear", *TRAINER, f"results_dir={folder / 'results'}",
    )  # fmt: skip
    config.model = described(folder / "model", architecture)
    config.target.roles = list(config.model.roles)  # a mixture's experts have none
    plan = Plan.of([config])
    run(config, plan)
    return read_record(Path(plan.folders[0])), Path(plan.folders[0])


def exported(place: Path, form: str) -> tuple[list[Any], str]:
    """The export of a run, if it is made, and why it isn't."""
    try:
        return [export(place, form, None)], ""
    except UserError as error:
        return [], str(error)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "in_fresh_process", reproduce)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", METHODS)
@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_an_export_of_every_architecture_gives_the_stored_predictions(
    kind: str, architecture: str, adapter: str, letters: dict[str, Path], tmp_path: Path
) -> None:
    record, place = trained(kind, architecture, adapter, letters[architecture], tmp_path)
    if record["state"] != "done":
        assert any(said in record["error"]["message"] for said in NOT_TRAINED.get(adapter, ())), record["error"]
        return
    in_peft_s_format, refusal = exported(place, "peft")
    assert not refusal or any(said in refusal for said in NOT_EXPORTED), refusal
    for one in [export(place, "merged", None), *in_peft_s_format]:
        assert one.reproduced
        assert all(same + ties == items for same, ties, items in one.reproduced.values())
