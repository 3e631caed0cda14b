"""No option is accepted that nobody reads, and no value that can't be: at any depth, before anything is written."""

import math
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from src.adapters.base import Setup
from src.adapters.peft_bridge import PeftBridge
from src.config.build import bare, build, hints_of, option_names, rules_of
from src.config.composer import CONF, Composer, composer
from src.config.ranges import LONGEST_NAME, Naming, Range
from src.config.schema import Config, ModelConfig, TargetConfig, TaskConfig, model_config, task_config
from src.config.sweeps import single_job
from src.errors import UserError
from src.running.options import check_run_options, check_task_options
from tests.conftest import ROOT, run_program


@pytest.fixture(scope="module")
def reader() -> Iterator[Composer]:
    """One composer for all tests here, as a program has."""
    with composer() as made:
        yield made


def configured(reader: Composer, *overrides: str) -> Config:
    """The config of a command line without -m."""
    config: Config = reader.config(single_job(reader, overrides))
    return config


@pytest.mark.parametrize(
    ("override", "unknown", "first"),
    [
        ("++trainer.max_step=3", "trainer.max_step", "trainer.max_steps"),
        ("+trainer.learning_rate=1e-5", "trainer.learning_rate", "trainer."),
        ("+adapter.rank=64", "adapter.rank", "rank, adapter.any_rank"),
        ("++model.dropout=0.5", "model.dropout", "model."),
        ("+task.max_len=32", "task.max_len", "task.max_length"),
        ("+tuning.trial=9", "tuning.trial", "tuning.trials"),
        ("+target.role=[key]", "target.role", "target.roles"),
        ("+task.judge.temperature=1", "task.judge.temperature", "task.temperature"),
        ("+foo=1", "foo", ""),
        ("trainer.step=3", "trainer.step", "trainer.max_steps"),
        ("+trainr.max_steps=3", "trainr", "trainer"),
        ("+seed.value=3", "seed.value", ""),
        ("+trainer.max_steps.value=3", "trainer.max_steps.value", ""),
        ("++tracking.entity=me", "tracking.entity", "tracking.mode"),
        ("+model.roles.query.modul=x", "model.roles.query.modul", "model.roles.query.module"),
        (
            "model.roles={query: {module: a, out_feature: 3}}",
            "model.roles.query.out_feature",
            "model.roles.query.out_f",
        ),
        ("+task.sources.train.fil=x", "task.sources.train.fil", "task.sources.train.file"),
        ("trainer.name.x=3", "trainer.name.x", ""),
        ("adapter.options.int=kaiming", "adapter.options.int", "adapter.options.init"),
    ],
)
def test_an_unknown_key_is_refused_at_any_depth_with_the_nearest_known_name(
    reader: Composer, override: str, unknown: str, first: str
) -> None:
    with pytest.raises(UserError, match=rf"^'{re.escape(unknown)}' is not an option\.\nAllowed: {re.escape(first)}"):
        configured(reader, override)


def test_an_unknown_key_in_a_yaml_is_refused_at_any_depth(reader: Composer) -> None:
    tree, _ = reader.tree([])
    tree.pop("hydra")
    tree["task"]["judge"] = {"model": "own", "tempo": 3}
    with pytest.raises(UserError, match=r"^'task\.judge\.tempo' is not an option\.\nAllowed: task\.judge\."):
        build(Config, tree)


def at(tree: Any, key: str) -> Any:
    """What a tree has at a dotted key; None where it has nothing."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def test_every_number_of_the_yamls_can_be_set_by_its_dotted_key(reader: Composer) -> None:
    tree, _ = reader.tree([])
    numbers = {key: value for key in option_names(Config) if type(value := at(tree, key)) in (int, float)}
    assert {"rank", "seed", "trainer.max_steps"} <= numbers.keys()
    for key, value in numbers.items():
        assert at(reader.tree([f"{key}={value + 1}"])[0], key) == value + 1, key


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~trainer.max_steps", "would take trainer.max_steps away"),
        ("~rank", "would take rank away"),
        ("~adapter", "would take adapter away"),
        ("~adapter.options.init=gaussian", "would take adapter.options.init away"),
        ("~adapter.options.int", r"'adapter\.options\.int' is not an option\.\nAllowed: adapter\.options\.init"),
        ("~rnak", r"'rnak' is not an option\.\nAllowed: rank"),
    ],
)
def test_only_what_a_yaml_names_can_be_taken_away(reader: Composer, override: str, message: str) -> None:
    assert "init" not in configured(reader, "~adapter.options.init").adapter.options
    with pytest.raises(UserError, match=message):
        configured(reader, override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+task.options.foo=1"], r"'task\.options\.foo' is not an option\.\nAllowed: task\.options\.test_per_class"),
        (["+adapter.options.xyz=1"], r"adapter\.options\.xyz is no option of LoRA\.\nAllowed: dropout, init, lr_ratio"),
        (["adapter=full", "+adapter.options.dropout=1"], r"'adapter\.options\.dropout' .*\nAllowed: none"),
        (["adapter=last_k", "+adapter.options.layer=1"], r"options\.layer' .*\nAllowed: adapter\.options\.layers"),
        (["+model.config.hidden_droput_prob=0.1"], r"hidden_droput_prob' .*\n.*: model\.config\.hidden_dropout_prob"),
        (["+model.sizes.hiden_size=3"], r"'model\.sizes\.hiden_size' .*\nAllowed: model\.sizes\.hidden_size"),
        (["task=mrpc", "+task.columns.textt=x"], r"'task\.columns\.textt' .*\nAllowed: task\.columns\.text"),
        (["+task.columns.text=review"], r"'task\.columns\.text' .*\nAllowed: none"),
        (["+task.sources.train.file=mine.csv"], r"'task\.sources\.train' .*\nAllowed: none"),
        (["task=mrpc", "+task.sources.tain.file=x"], r"'task\.sources\.tain' .*\nAllowed: task\.sources\.train"),
        (["+task.metric_options.kk=1"], r"'task\.metric_options\.kk' .*\nAllowed: none"),
        (
            ["model=llama2_7b", "task=humaneval", "task.allow_code_execution=true", "+task.metric_options.timeout=1"],
            r"'task\.metric_options\.timeout' .*\nAllowed: task\.metric_options\.timeout_seconds",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_options_that_go_to_other_code_by_name_are_those_that_it_takes(
    reader: Composer, overrides: list[str], message: str
) -> None:
    config = configured(reader, *overrides)
    with pytest.raises(UserError, match=message):
        check_all_options(config)


def check_all_options(config: Config) -> None:
    """Both checks, as a sweep makes them."""
    check_task_options(config.task)
    check_run_options([config])


@pytest.mark.parametrize("group", ["model", "task", "adapter"])
def test_the_options_of_every_yaml_are_read(reader: Composer, group: str) -> None:
    names = [str(path.relative_to(Path(CONF, group)).with_suffix("")) for path in Path(CONF, group).rglob("*.yaml")]
    assert len(names) > 10
    for name in sorted(names):
        tree, _ = reader.tree([f"{group}={name}"])
        if group == "task":
            check_task_options(task_config(tree["task"]))
        else:
            config = configured(reader)
            config.model = model_config(tree["model"]) if group == "model" else config.model
            config.model.weights_sha256, config.model.package = None, None
            check_run_options([configured(reader, f"adapter={name}") if group == "adapter" else config])


def test_an_argument_that_a_loader_needs_is_asked_for(reader: Composer) -> None:
    task = configured(reader).task
    del task.options["test_per_class"]
    with pytest.raises(UserError, match=r"task=docstrings needs task\.options\.test_per_class"):
        check_task_options(task)


def with_ranks(pattern: dict[str, int]) -> nn.Module:
    """A model of two layers with PEFT's LoRA on one of them, of rank 2 but where a pattern says otherwise."""
    model = nn.Sequential()
    model.query, model.value = nn.Linear(4, 4), nn.Linear(4, 4)
    model.config, model.can_generate = {"model_type": "custom"}, lambda: False  # type: ignore[assignment]
    target = {"_target_": "peft.LoraConfig", "rank_pattern": pattern}
    injected: nn.Module = PeftBridge.inject_into(
        model, Setup(target_modules=["query"], rank=2, alpha=2.0, config=target)
    )
    return injected


def test_a_pattern_of_peft_that_matches_no_module_is_refused_before_training() -> None:
    with pytest.raises(UserError, match=r"rank_pattern names nosuch.*\nAllowed: query"):
        with_ranks({"nosuch": 3})
    assert with_ranks({"query": 3}).get_parameter("query.lora_A.default.weight").shape == (3, 4)


# ---- values


def numeric_fields(schema: type = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of the configuration with its type, by its dotted key."""
    for name, hint in hints_of(schema).items():
        if is_dataclass(bare(hint)):
            yield from numeric_fields(bare(hint), f"{prefix}{name}.")
        elif bare(hint) in (int, float):
            yield f"{prefix}{name}", hint


NUMBERS = dict(numeric_fields())


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "true", "word", "[1,2]", "''", "1e999"])
def test_what_isn_t_a_number_in_its_range_is_refused_for_every_number(reader: Composer, value: str) -> None:
    """Every one of this project's settings is 0 or more, so that -1 is out of the range of each."""
    for key in NUMBERS:
        with pytest.raises(UserError, match=re.escape(key)):
            configured(reader, f"{key}={value}")


@pytest.mark.parametrize("value", ["9223372036854775808", "1.5", "1e3"])
def test_a_whole_number_fits_into_64_bits(reader: Composer, value: str) -> None:
    for key in (key for key, hint in NUMBERS.items() if bare(hint) is int):
        with pytest.raises(UserError, match=re.escape(key)):
            configured(reader, f"{key}={value}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.warmup_ratio=7", r"=7\.0 is too large\.\nAllowed: at most 1\."),
        ("trainer.warmup_ratio=1.0000001", "too large"),
        ("lr=0", r"lr=0\.0 is too small\.\nAllowed: a number above 0\."),
        ("trainer.head_lr=-0.0", "too small"),
        ("tuning.trials=4", r"is even\.\nAllowed: odd numbers"),
        ("tuning.trials=101", "too large"),
        ("task.max_length=1", "too small"),
        ("rank=0", r"rank=0 is too small\.\nAllowed: 1 or more\."),
        ("results_dir=", "can't be used"),
        ("cache_dir='  '", "can't be used"),
        ("results_dir=null", "is not a text"),
        ("tracking.project=''", "can't be used"),
        ("trainer.score_test=1", "is not true or false"),
        ("trainer.score_test=yes", "is not true or false"),
        ("target.roles=query", r"is not a list\.\nAllowed: such as 'target\.roles=\[query\]'"),
        ("target.roles=[query,3]", "is not a text"),
        ("+adapter.options.x=nan", "is no finite number"),
        ("+model.config.x={y: [1, inf]}", r"model\.config\.x\.y\.1=inf is no finite number"),
        ("model.roles=3", "is not a table"),
        ("task.judge=null", r"task\.judge=null is one value"),
        ("target.roles=[query,query]", r"target\.roles names query twice"),
        ("task.more_metrics=[f1,f1]", "names f1 twice"),
        ("adapter.axes=[rank,lrr]", r"adapter\.axes=lrr is not known\.\nAllowed: lr"),
        ("task.temperature=1", "is for written answers"),
        ("task.stop=[x]", "is for written answers"),
        ("alpha=${nope}", r"alpha: Interpolation key 'nope' not found\.\nA reference such as"),
        ("alpha=${alpha}", r"alpha: Recursive"),
        ("rank=${oc.env:NO_SUCH_VARIABLE}", r"rank: .*NO_SUCH_VARIABLE"),
        ("+adapter=lora", r"adds to a group.*\nAllowed: adapter=lora"),
        ("adapter@x=lora", "adds to a group"),
        ("+model.roles.qurey={module: a, out_features: 1, in_features: 1}", r"qurey is no role\.\nAllowed: .*query"),
    ],
)
def test_a_value_out_of_its_range_or_of_another_type_is_refused(reader: Composer, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configured(reader, override)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.warmup_ratio", 0),
        ("trainer.warmup_ratio", 1),
        ("trainer.weight_decay", 0),
        ("trainer.max_grad_norm", 0),
        ("seed", 9223372036854775807),
        ("lr", 1e-300),
    ],
)
def test_the_ends_of_a_range_are_in_it(reader: Composer, key: str, value: float) -> None:
    assert attrgetter(key)(configured(reader, f"{key}={value}")) == value


def test_numbers_have_a_range_wherever_they_stand() -> None:
    for key, hint in NUMBERS.items():
        ranges = [rule for rule in rules_of(hint) if isinstance(rule, Range)]
        assert ranges, key
        with pytest.raises(UserError, match="no finite number"):
            ranges[0].check(key, math.nan)


# ---- names


BAD_NAMES = ["mine/lora", "../../../escape", "a#b", "_lora", "-lora", ".lora", "", " ", "a b", "a\nb", "a\x00b",
             "a\u200bb", "<!--<script>", "a&b", "lora\\", "é", "a" * (LONGEST_NAME + 1)]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_be_a_path_or_markup_is_refused(reader: Composer, name: str) -> None:
    for group in ("adapter", "model", "task", "target", "trainer", "tracking"):
        tree, _ = reader.tree([])
        tree.pop("hydra")
        tree[group]["name"] = name
        with pytest.raises(UserError) as refused:
            build(Config, tree)
        assert str(Naming()) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize("name", ["lora", "peft_custom", "gpt3-175b", "t5.1.1", "c++", "7b", "a" * LONGEST_NAME])
def test_usual_names_are_allowed(name: str) -> None:
    Naming().check("model.name", name)


@pytest.mark.parametrize("option", ["../model/minilm", "_x", "peft/../lora", "a#b"])
def test_a_choice_stays_in_its_folder(reader: Composer, option: str) -> None:
    with pytest.raises(UserError, match="can't be"):
        configured(reader, f"adapter={option}")


def test_plain_values_of_a_yaml_become_fields_and_what_is_missing_or_unknown_is_refused() -> None:
    values: Any = yaml.safe_load((ROOT / "conf/target/qv.yaml").read_text())
    assert build(TargetConfig, values) == TargetConfig(name="qv", roles=["query", "value"])
    with pytest.raises(UserError, match=r"^layers has no value"):
        build(ModelConfig, {"name": "x", "architecture": "classifier"})
    with pytest.raises(UserError, match=r"^'namme' is not an option\.\nAllowed: name"):
        build(TaskConfig, {"namme": "x"})


def test_nothing_is_written_for_a_value_that_is_refused(tmp_path: Path) -> None:
    done = run_program("src.run", "trainer.weight_decay=nan", f"results_dir={tmp_path}/r", f"cache_dir={tmp_path}/c")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 3
    assert not list(tmp_path.iterdir())
