"""The bridge to PEFT (https://github.com/huggingface/peft): one method that is any of theirs.

PEFT builds, this project does the rest: the adapter's yaml names a config class of PEFT and its arguments, and what
`get_peft_model` adds to the frozen model is trained, counted, saved and loaded by tensor identity, as any method's
is. Three things are put right on the way: PEFT's copy of the head (the runner trains the head itself), its draws
from the global random state, and the positions that it forgets where prompts are padded on the left.

In `adapter.config`, `role:<role>` stands for the names of the modules in that role, `run:rank`, `run:alpha` and
`run:target` for the run's own, and `run:seed` for a number that the run's seed decides.
"""

import importlib
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import peft
import torch
import transformers
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from src.adapters.base import Method, Setup
from src.adapters.inject import stored_tensors
from src.errors import UserError, first_line, nearest_first

if TYPE_CHECKING:
    from src.config.schema import AdaptedModel

# What a config class's fields get where the yaml doesn't set them.
DEFAULTS = {
    "r": "run:rank",
    "num_virtual_tokens": "run:rank",
    "lora_alpha": "run:alpha",
    "alpha": "run:alpha",
    "target_modules": "run:target",
}
AXES = ("rank", "alpha", "target")
TASK_TYPES = {"classifier": "SEQ_CLS", "causal_lm": "CAUSAL_LM", "seq2seq_lm": "SEQ_2_SEQ_LM"}
NAMES_SHOWN = 8


class PeftBridge(Method):
    """Whatever method the config class in `adapter.config._target_` stands for."""

    @classmethod
    def check(cls, config: "AdaptedModel") -> None:
        """Build PEFT's config from what the yamls say, and compare the method's axes with what it takes."""
        roles = {role: role_config.module.split(" | ") for role, role_config in config.model.roles.items()}
        setup = Setup(
            target_modules=[name for role in config.target_roles() for name in roles[role]],
            rank=config.rank,
            alpha=config.alpha or 1.0,
            options=config.adapter.options,
            modules_of_role=roles,
            config=config.adapter.config,
        )
        peft_config(setup, TASK_TYPES.get(config.model.architecture))
        _check_axes(config, _arguments(setup))

    @classmethod
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Let PEFT put its method on the model, and see that it did what was asked and no more."""
        task_type = _task_type(model)
        config = peft_config(setup, task_type)
        name, before = type(config).__name__, _versions(model)
        weightless = " without its weights" if any(parameter.is_meta for parameter in model.parameters()) else ""
        with _drawing_from(setup.generator), _refusals(f"peft.{name} can't be put on this model{weightless}"):
            if config.is_prompt_learning:
                _fill_in_sizes(config, model)
            injected = peft.get_peft_model(model, config)
        # For a classifier PEFT trains a copy of the head, which the runner trains already.
        _unwrap_head(injected)
        _check_base(name, before, _versions(injected))
        _check_patterns(name, injected, config)
        _check_method(name, injected, setup)
        if config.is_prompt_learning and task_type == TASK_TYPES["causal_lm"]:
            _check_cache(name, model)
            _keep_positions(model)
        if setup.generator is not None:
            with _drawing_from(setup.generator), _refusals(f"peft.{name} doesn't run on this model"):
                _try(injected, model)
        return injected


def peft_config(setup: Setup, task_type: str | None) -> peft.PeftConfig:
    """PEFT's config for a setup; `task_type`, PEFT's name of what the model does, is set where PEFT has to know it.

    Raises:
        UserError: the class or one of its arguments doesn't exist, or PEFT refuses a value.
    """
    kind = _config_class(setup)
    arguments = {name: _resolved(value, setup) for name, value in _arguments(setup).items()}
    if issubclass(kind, peft.PromptLearningConfig):
        arguments.setdefault("task_type", task_type)
    with _refusals(f"peft.{kind.__name__} can't be made"):
        return kind(**arguments)


def _config_class(setup: Setup) -> type[peft.PeftConfig]:
    """The class that `adapter.config._target_` names.

    Raises:
        UserError: it names none.
    """
    target = setup.config.get("_target_") or ""
    owner, _, name = target.rpartition(".")
    try:
        named: Any = getattr(importlib.import_module(owner), name)
    except (ImportError, AttributeError, ValueError):
        named = None
    abstract = (peft.PeftConfig, peft.PromptLearningConfig)
    if _is_config_class(named) and named not in abstract:
        chosen: type[peft.PeftConfig] = named
        return chosen
    class_names = [
        f"peft.{attribute}"
        for attribute, value in vars(peft).items()
        if _is_config_class(value) and value not in abstract
    ]
    wrong = "is no config class of PEFT" if named else "is not known" if target else "names no method"
    raise UserError(
        f"adapter.config._target_={target} {wrong}.\n"
        f"Allowed: {_nearest(f'peft.{name}', class_names)}.\nSet it to one of PEFT's config classes."
    )


def _is_config_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, peft.PeftConfig)


def _arguments(setup: Setup) -> dict[str, Any]:
    """The config class's arguments by name, with the references still in them.

    Raises:
        UserError: one isn't an argument of the class, or names modules to train whole.
    """
    kind = _config_class(setup)
    names = {parameter.name for parameter in fields(kind) if parameter.init}
    arguments = {name: value for name, value in (setup.options | setup.config).items() if name != "_target_"}
    for name in arguments:
        if name not in names:
            raise UserError(
                f"adapter.config.{name} is no argument of peft.{kind.__name__}.\nAllowed: {_nearest(name, names)}."
            )
    if arguments.get("modules_to_save"):
        raise UserError(
            f"adapter.config.modules_to_save={arguments['modules_to_save']} would train a copy of these modules.\n"
            "Name modules to train whole in model.head=[...], as for every method."
        )
    return {name: value for name, value in DEFAULTS.items() if name in names} | arguments


def _nearest(name: str, names: Iterable[str]) -> str:
    ordered = nearest_first(name, names)
    others = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" or {others} others" if others > 0 else "")


def _resolved(value: Any, setup: Setup) -> Any:
    """An argument with the references in it replaced by what they stand for."""
    if isinstance(value, list):
        nested = [_resolved(item, setup) if _is_reference(item, "role") else [_resolved(item, setup)] for item in value]
        return [item for part in nested for item in part]
    if _is_reference(value, "role"):
        return _looked_up(value, setup.modules_of_role)
    if _is_reference(value, "run"):
        # PEFT takes a text as an expression for whole names; of a list's names it would take every ending.
        exactly = "|".join(re.escape(name) for name in setup.target_modules)
        run_values = {"rank": setup.rank, "alpha": setup.alpha, "target": exactly, "seed": None}
        looked_up = _looked_up(value, run_values)
        return _drawn(setup.generator) if value == "run:seed" else looked_up
    return value


def _is_reference(value: Any, kind: str) -> bool:
    return isinstance(value, str) and value.startswith(f"{kind}:")


def _looked_up(reference: str, values: dict[str, Any]) -> Any:
    kind, _, name = reference.partition(":")
    if name not in values:
        allowed = ", ".join(f"{kind}:{other}" for other in nearest_first(name, values))
        raise UserError(f"adapter.config names {reference}, which this run doesn't have.\nAllowed: {allowed}.")
    return values[name]


def _check_axes(config: "AdaptedModel", arguments: dict[str, Any]) -> None:
    """Make sure that the axes in the yaml are those that change the method, since they make runs differ."""
    taken = [axis for axis in AXES if f"run:{axis}" in arguments.values()]
    # A method with roles of its own uses targets that no run can vary: they are no axis of its yaml.
    target_axis = ["target"] if config.adapter.roles else []
    if taken != [axis for axis in AXES if axis in [*config.adapter.axes, *target_axis]]:
        right = [*(axis for axis in taken if axis not in target_axis), "lr"]
        raise UserError(
            f"{config.adapter.config['_target_']} with this config takes {', '.join(taken) or 'none'} of "
            f"{', '.join(AXES)}; adapter.axes=[{','.join(config.adapter.axes)}] says otherwise.\n"
            f"Set adapter.axes=[{','.join(right)}], so that runs which differ in nothing count as one."
        )


def _task_type(model: Any) -> str:
    """PEFT's name of what the model does."""
    if not model.can_generate():
        return TASK_TYPES["classifier"]
    return TASK_TYPES["seq2seq_lm" if model.config.is_encoder_decoder else "causal_lm"]


def _drawn(generator: torch.Generator | None) -> int:
    """A seed; 0 where what is drawn from it will be loaded or only counted."""
    return 0 if generator is None else int(torch.randint(2**31, (), generator=generator))


@contextmanager
def _drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Let `generator` decide what the block draws from the global random state, which is left as it was."""
    on_gpu = torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if on_gpu else []):
        seed = _drawn(generator)
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Say as a user's mistake, with its first line, whatever PEFT raises in the block; leave its advice unsaid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(
            f"{what}: {first_line(error)}\nCorrect adapter.config, or choose another method or model."
        ) from error


def _fill_in_sizes(config: Any, model: Any) -> None:
    """Set what PEFT would look for under each architecture's own name, of which it doesn't know all."""
    for field, common in (("token_dim", "hidden_size"), ("num_attention_heads", "num_attention_heads")):
        if getattr(config, field) is None:
            setattr(config, field, getattr(model.config, common, None))


def _unwrap_head(injected: nn.Module) -> None:
    """Put the modules back that PEFT trains a copy of."""
    for name, module in list(injected.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            injected.set_submodule(name, module.original_module)


def _versions(model: nn.Module) -> dict[int, tuple[Tensor, int, int]]:
    """The model's tensors by identity, each with its place in memory and the number of changes made to it."""
    return {id(tensor): (tensor, tensor.data_ptr(), tensor._version) for tensor in stored_tensors(model).values()}


def _check_base(name: str, before: dict[int, Any], after: dict[int, Any]) -> None:
    """Make sure that the base model's tensors are all there and unchanged."""
    if any(after.get(key, (None,))[1:] != tensor[1:] for key, tensor in before.items()):
        raise UserError(
            f"peft.{name} with these arguments changes weights of the base model.\n"
            "Choose an initialization that leaves them as they are, or another method."
        )


def _check_patterns(name: str, injected: Any, config: peft.PeftConfig) -> None:
    """Make sure that each key of a pattern, as of `rank_pattern`, is of a module that PEFT took; it ignores others."""
    taken = getattr(injected.base_model, "targeted_module_names", [])
    for field in (field.name for field in fields(config) if field.name.endswith("_pattern")):
        given = getattr(config, field)
        for pattern in given if isinstance(given, dict) else ():
            if not any(re.fullmatch(rf"(.*\.)?({pattern})", module) for module in taken):
                endings = {module.rpartition(".")[2] for module in taken}
                raise UserError(
                    f"adapter.config.{field} names {pattern}, and peft.{name} adapts no module of that name.\n"
                    f"Allowed: {_nearest(pattern, endings)}, longer endings of names, or expressions for them."
                )


def _check_method(name: str, injected: Any, setup: Setup) -> None:
    """Make sure that PEFT took the rank as it was given, and that the method needs nothing between steps."""
    if getattr(injected.base_model, "update_and_allocate", None):
        raise UserError(
            f"peft.{name} has its parameters allotted anew between steps, which this runner doesn't do.\n"
            "Choose another method."
        )
    asked = [field for field, value in _arguments(setup).items() if value == "run:rank"]
    sizes = [getattr(module, field, None) for module in injected.modules() for field in asked]
    taken = {rank for size in sizes if isinstance(size, dict) for rank in size.values()} - {setup.rank}
    if taken and not setup.config.get("rank_pattern"):
        raise UserError(
            f"rank={setup.rank} doesn't fit peft.{name} on these modules: PEFT would take {sorted(taken)} instead.\n"
            "Give a rank that it takes as it is."
        )


def _check_cache(name: str, model: nn.Module) -> None:
    """Make sure that the model takes what PEFT hands it by that name; by another it is ignored in silence."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise UserError(
            f"peft.{name} hands virtual tokens on as past_key_values, which {type(model).__name__} of transformers "
            f"{transformers.__version__} doesn't take.\n"
            'Run: pip install "transformers<5.24", or choose another method.'
        )


def _keep_positions(model: nn.Module) -> None:
    """Give the model each token's position, counted without padding, as `generate` does.

    PEFT drops the positions that come from `generate` where prompts are virtual tokens. The model's default would
    count the padding between these and the text, and an answer would depend on the other prompts of its batch.
    """

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")  # (batch, virtual tokens and text), those in the cache too
        if mask is not None and mask.dim() == 2 and kwargs.get("position_ids") is None:
            embedded = kwargs.get("inputs_embeds")
            length = (kwargs["input_ids"] if embedded is None else embedded).shape[1]
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            kwargs["position_ids"] = positions[:, -length:]  # (batch, length)
        return args, kwargs

    if "position_ids" in inspect.signature(model.forward).parameters:
        model.register_forward_pre_hook(hook, with_kwargs=True)


@torch.no_grad()
def _try(injected: nn.Module, model: Any) -> None:
    """Run the model on the few tokens that transformers has for this, to meet errors before training does."""
    was_training, device = injected.training, next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in model.dummy_inputs.items()}
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if model.config.is_encoder_decoder and not model.can_generate():
        # Such a classifier reads a text at its end token, of which all must have as many.
        ids, end = inputs["input_ids"], model.config.eos_token_id
        inputs["input_ids"] = torch.cat([ids[:, :-1].masked_fill(ids[:, :-1] == end, 0), ids[:, -1:] * 0 + end], dim=1)
    injected.eval()
    injected(**inputs)
    injected.train(was_training)
