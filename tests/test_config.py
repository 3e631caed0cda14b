"""The configuration refuses what can't be run and fills in what depends on other values."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.errors import UserError, nearest_first
from tests.conftest import ROOT, composed


@pytest.mark.parametrize("rank", [1, 4, 8, 64])
@pytest.mark.parametrize("adapter", ["lora", "lora_fa"])
def test_default_alpha_keeps_the_scaling_constant_across_ranks(adapter: str, rank: int) -> None:
    config = composed(f"adapter={adapter}", f"rank={rank}")
    assert config.alpha == 2.0 * rank


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_rslora_has_one_alpha_for_all_ranks(rank: int) -> None:
    assert composed("adapter=rslora", f"rank={rank}").alpha == 6


def test_a_rank_without_bound_may_exceed_every_matrix() -> None:
    assert composed("adapter=vera", "rank=1024").rank == 1024


@pytest.mark.parametrize("rank", [1, 3, 96])
def test_lora_sb_has_alpha_equal_to_rank(rank: int) -> None:
    assert composed("adapter=lora_sb", f"rank={rank}").alpha == rank


def test_an_alpha_and_learning_rate_that_are_set_are_kept() -> None:
    config = composed("adapter=lora", "alpha=5", "lr=0.25")
    assert (config.alpha, config.lr) == (5.0, 0.25)


def test_the_head_has_one_learning_rate_for_all_methods() -> None:
    names = [path.stem for path in (ROOT / "conf/adapter").glob("*.yaml")]
    assert len(names) >= 6
    assert len({composed(f"adapter={name}").trainer.head_lr for name in names}) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rank=0"], r"rank=0 is too small.\nAllowed: 1 or more"),
        (["rank=100000"], r"rank=100000 is above the size of minilm's \w+ matrix \(384 x 384\).\n.*1 to 384"),
        (["rank=65", "model=tiny_llama", "task=reverse_words", "target=qv"], r"rank=65 is above .* \(64 x 64\)"),
        (["target.roles=[query,gate]"], r"needs gate, which model=minilm doesn't have.\nIt has: query, key"),
        (["target.roles=[querry]"], r"'querry', which doesn't exist.\nAllowed: query"),
        (["target.roles=[]"], r"names no role"),
        (["task=reverse_words"], r"task=reverse_words needs a causal_lm, model=minilm is a classifier"),
        (["trainer.precision=fp8"], r"trainer.precision=fp8 is not known.\nAllowed: fp32"),
        (["trainer.schedule=lineer"], r"Allowed: linear"),
        (["quantization=nf5"], r"quantization=nf5 is not known.\nAllowed: nf4"),
        (["adapter=full", "quantization=nf4"], r"adapter=full trains weights of the base model; quantization=nf4"),
        (["adapter=last_k", "quantization=int8"], r"adapter=last_k trains weights of the base model"),
        (["adapter=houlsby", "adapter.roles=[gate]"], r"adapter=houlsby needs gate, which model=minilm doesn't have"),
        (["lr=0"], r"lr=0.0 is too small.\nAllowed: a number above 0"),
        (["lr=nan"], r"lr=nan is no finite number.\nAllowed: a number above 0"),
        (["trainer.eval_limit=-5"], r"trainer.eval_limit=-5 is too small"),
        (["trainer.max_steps=0"], r"trainer.max_steps=0 is too small"),
        (
            ["trainer.epochs=3"],
            r"trainer.max_steps=200 and trainer.epochs=3: both say .*\n.*\n.*max_steps=null",
        ),
        (["trainer.max_steps=null"], r"trainer.max_steps=null and trainer.epochs=null: neither says"),
        (["experiment=lora_sb_glue", "trainer.max_steps=4"], r"trainer.max_steps=4 .*\n.*\nSet trainer.epochs=null"),
        (["trainer.epochs=0", "trainer.max_steps=null"], r"trainer.epochs=0.0 is too small"),
        (["seed=-1"], r"seed=-1 is too small"),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*overrides)


@pytest.mark.parametrize(
    "override", ["adapter=lorra", "rnak=8", "rank=eight", "adapter.lrr=1", "trainer.steps=3", "adapter.options.foo=1"]
)
def test_an_unknown_name_or_a_wrong_type_does_not_compose(override: str) -> None:
    with pytest.raises(UserError):
        composed(override)


def test_a_rank_above_a_matrix_is_fine_for_a_method_without_a_rank() -> None:
    assert composed("adapter=full", "rank=100000").rank == 100000


def test_optional_roles_follow_the_model() -> None:
    assert "gate" not in composed("target=all_linear").target_roles()
    assert "gate" in composed("target=all_linear", "model=tiny_llama", "task=reverse_words").target_roles()


@pytest.mark.parametrize("group", ["adapter", "model", "target", "task", "trainer", "tracking"])
def test_every_yaml_is_named_like_its_file_and_opens_with_its_purpose(group: str) -> None:
    paths = sorted((ROOT / "conf" / group).glob("*.yaml"))
    assert paths
    for path in paths:
        text = path.read_text()
        assert text.startswith("# "), path
        assert f"\nname: {path.stem}\n" in text, path


def test_every_option_yaml_of_every_group_composes() -> None:
    for path in sorted(Path(ROOT / "conf").glob("*/*.yaml")):
        if path.parent.name in ("experiment", "model", "task"):
            continue
        composed(f"{path.parent.name}={path.stem}")


def test_nearest_names_come_first_and_none_is_lost() -> None:
    assert nearest_first("lorra", ["full", "lora_fa", "lora"]) == ["lora", "lora_fa", "full"]


def test_every_experiment_names_its_command_and_composes() -> None:
    paths = sorted((ROOT / "conf/experiment").glob("*.yaml"))
    assert paths
    for path in paths:
        commands = [f"python -m src.run -m experiment={path.stem}", f"python -m src.tune experiment={path.stem}"]
        assert any(command in path.read_text().splitlines()[1] for command in commands)
        assert (ROOT / "experiments" / path.stem / "README.md").exists()
        assert composed(f"experiment={path.stem}").results_dir == f"results/{path.stem}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.samples=3"], r"task\.samples=3 texts a prompt are for pass_at_k(.|\n)*task\.temperature=0\.\n"),
        (["task=samsum", "task.samples=3", "task.temperature=0.8"], r"this is rouge_1 at task\.temperature=0\.8"),
        (["task.metric_options.k=2"], r"k=2 can't be had of task\.samples=1"),
        (["task.metric_options.k=0"], r"k=0 can't be had"),
    ],
)
def test_samples_that_no_metric_could_use_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed("model=llama2_7b", "task=humaneval", "task.allow_code_execution=true", *overrides)


def test_ten_of_twenty_texts_a_problem_are_allowed() -> None:
    drawn = ["task.samples=20", "task.temperature=0.8", "task.metric_options.k=10"]
    config = composed("model=llama2_7b", "task=humaneval", "task.allow_code_execution=true", *drawn)
    assert config.task.samples == 20


def hub_sources() -> list[tuple[str, str, str | None]]:
    """Each yaml's data sets and models on the hub, with their revisions."""
    sources = []
    for path in sorted((ROOT / "conf").glob("task/*.yaml")):
        task: Any = OmegaConf.load(path)
        for source in (task.get("sources") or {}).values():
            if source.get("hub_id"):
                sources.append((path.stem, source.hub_id, source.get("revision")))
    for path in sorted((ROOT / "conf").glob("model/*.yaml")):
        model: Any = OmegaConf.load(path)
        if model.get("hub_id"):
            sources.append((path.stem, model.hub_id, model.get("revision")))
    return sources


def test_what_comes_from_the_hub_is_pinned_but_for_the_exceptions_that_their_yamls_explain() -> None:
    commit = re.compile(r"[0-9a-f]{40}")
    loose = {source for source in hub_sources() if not commit.fullmatch(source[2] or "")}
    assert loose == {
        ("wikisql", "Salesforce/wikisql", "refs/convert/parquet"),
        ("e2e", "tuetschek/e2e_nlg", "refs/convert/parquet"),
        ("deberta_v2_xxl", "microsoft/deberta-v2-xxlarge", None),
    }
    assert len(hub_sources()) > 60


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=tiny_llama", "task=reverse_words", "task.max_length=60"],
            r"needs 68 tokens (.|\n)*tiny_llama reads 64",
        ),
        (["task.max_length=513"], r"needs 513 tokens (.|\n)*model=minilm reads 512\.\nLower one of the two"),
    ],
)
def test_a_text_longer_than_the_model_reads_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.validation_metric=accuracy"], r"task\.validation_metric=accuracy is not known\.\nAllowed: loss"),
        (["task.validation_metric=loss"], r"a written answer's tokens"),
    ],
)
def test_only_a_language_model_is_validated_by_its_loss(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        composed(*overrides)


def test_every_field_of_the_configuration_is_explained_where_it_stands() -> None:
    for file, names in {"src/config/schema.py": None, "src/judging/client.py": ["JudgeConfig"]}.items():
        lines = (ROOT / file).read_text().splitlines()
        classes = [node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef)]
        for class_node in classes:
            fields = [node for node in class_node.body if isinstance(node, ast.AnnAssign)]
            for node in fields if names is None or class_node.name in names else []:
                above, line = lines[node.lineno - 2].strip(), lines[node.lineno - 1]
                assert "  # " in line or above.startswith("# "), f"{class_node.name}: {line.strip()}"
