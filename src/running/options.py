"""Options that go to other code by name: each is compared with what that code takes, before the first run.

A method's, a loader's and a metric's options are arguments, a model's are fields of transformers' config. One that
nobody reads would make another run of equal results, or end a run with a traceback.
"""

import importlib
import inspect
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from src.config.schema import AdapterConfig, Config, ModelConfig, TaskConfig
from src.errors import UserError, nearest_first
from src.metrics import FOLDER

SPLITS = ("train", "validation", "test")
TEXTS = ("text", "text_pair", "label")  # what a classifier's row has
SHARED_MODULES = ("src.tasks.base", "src.tasks.source", "src.config.schema")
NAMES_SHOWN = 12
OTHER_FIELDS = ("model_type", "num_labels", "n_positions")  # properties of transformers' configs, or ours
# Arguments that a run fills in itself.
FILLED_IN = ("predictions", "references", "allow_code_execution", "judge_config", "folder", "model_id")


def check_task_options(task: TaskConfig) -> None:
    """Refuse options, parts and columns of a task that neither its loader nor its metric reads.

    Raises:
        UserError: which one, and those that are read; or an argument of the loader that is missing.
    """
    module_name, _, name = task.loader.rpartition(".")
    module = importlib.import_module(module_name)
    arguments = list(inspect.signature(getattr(module, name)).parameters.values())[1:]
    if not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments):
        _check_known("task.options", task.options, [argument.name for argument in arguments])
    needed = [argument.name for argument in arguments if argument.default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in task.options]
    if missing:
        raise UserError(f"task={task.name} needs task.options.{missing[0]}, which {task.loader} asks for.")
    source = _source(module)
    quoted = set(re.findall(r"[\"'](\w+)[\"']", source))
    of_a_set = [part for part in task.sources if not {*part.split("_")}.isdisjoint(SPLITS)]
    parts = [*SPLITS, *of_a_set, *quoted.intersection(task.sources)] if "records(" in source else []
    _check_known("task.sources", task.sources, parts)
    in_prompt = re.findall(r"{(\w+)", task.prompt)
    columns = [*TEXTS, *in_prompt, *quoted.intersection(task.columns)] if "columns" in source else []
    _check_known("task.columns", task.columns, columns)
    if task.metric_options:
        _check_known("task.metric_options", task.metric_options, _metric_options(task.metric))


def _metric_options(metric: str) -> list[str]:
    """The arguments of a metric that a user may give."""
    from src.metrics.base import metric_in  # heavy

    kind = metric_in(FOLDER / metric / f"{metric}.py")
    own = [getattr(kind, name) for name in ("_compute", "_items", "_value") if hasattr(kind, name)]
    named = [argument for method in own for argument in inspect.signature(method).parameters.values()]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [argument.name for argument in named if argument.kind not in variable and argument.name != "self"]
    return [name for name in dict.fromkeys(names) if name not in FILLED_IN]


def check_run_options(configs: Sequence[Config]) -> None:
    """Refuse options of methods and models that nothing reads; what loads heavy libraries, once for each kind.

    Raises:
        UserError: which one, and those that are read.
    """
    for adapter in {repr(config.adapter): config.adapter for config in configs}.values():
        if not adapter.config:  # a bridge's options are checked with the rest of its arguments
            _check_method(adapter)
    for model in {repr(config.model): config.model for config in configs}.values():
        _check_model(model)


def _check_method(adapter: AdapterConfig) -> None:
    from src.adapters.base import Adapter, Setup

    module_name, _, name = adapter.method.rpartition(".")
    module = importlib.import_module(module_name)
    method = getattr(module, name)
    given = {key: value for key, value in adapter.options.items() if value is not None}
    if issubclass(method, Adapter):
        method.check_options(Setup(options=given))
        return
    source = inspect.getsource(module)
    if "**setup.options" not in source:
        _check_known("adapter.options", given, re.findall(r"options(?:\.get\(|\[)\"(\w+)\"", source))


def _check_model(model: ModelConfig) -> None:
    """Compare `model.config` and `model.sizes` with the fields that transformers' config of that kind has."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = {**model.sizes, **model.config}.get("model_type") or _model_type(model)
    if kind not in CONFIG_MAPPING:
        return  # it is told where the model is built
    config_class: Any = CONFIG_MAPPING[kind]
    fields = {*vars(config_class()), *config_class.attribute_map, *OTHER_FIELDS}
    public = [field for field in fields if not field.startswith("_")]
    folder = Path(inspect.getfile(config_class)).parent
    for key in ("config", "sizes"):
        # Some fields are read by the model's code alone, where a checkpoint has them.
        unknown = [name for name in getattr(model, key) if name not in fields]
        read = [name for name in unknown if any(_has_word(path, name) for path in folder.glob("*.py"))]
        _check_known(f"model.{key}", getattr(model, key), [*public, *read])


def _model_type(model: ModelConfig) -> str:
    """The kind of a model whose yaml doesn't say it, by the config beside its weights."""
    from src.models.base_model import find_weights

    folder = find_weights(model)
    path = folder / "config.json" if folder else Path()
    return str(json.loads(path.read_text(encoding="utf-8")).get("model_type")) if path.is_file() else ""


def _check_known(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            nearest = [f"{owner}.{other}" for other in nearest_first(name, set(known))]
            more = f" or {len(nearest) - NAMES_SHOWN} others" if len(nearest) > NAMES_SHOWN else ""
            allowed = ", ".join(nearest[:NAMES_SHOWN]) + more
            raise UserError(f"'{owner}.{name}' is not an option.\nAllowed: {allowed or 'none here'}.")


def _has_word(path: Path, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", path.read_text(encoding="utf-8")) is not None


def _source(module: ModuleType) -> str:
    """The code of a loader's module and of those of its package that it imports, but for what all tasks share."""
    source = inspect.getsource(module)
    package = module.__name__.partition(".")[0]
    imported = re.findall(rf"^ *from ({package}\.[\w.]+) import", source, re.MULTILINE)
    own = [name for name in imported if name not in SHARED_MODULES]
    return "\n".join([source, *(inspect.getsource(importlib.import_module(name)) for name in own)])
