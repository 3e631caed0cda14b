"""Which of transformers' attention implementations a model gets: what the device computes fast, where the model has it.

DeBERTa adds relative positions to its attention scores and Gemma 2 caps them; neither has a form that PyTorch's fused
attention computes, and transformers refuses it when the model is made.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FALLBACK = "eager"  # what every architecture has


def supported_attention(auto_class: Any, described: "Path | PreTrainedConfig", asked: str) -> str:
    """`asked`, or plain attention where the model has no fused one.

    Args:
        auto_class: the class of transformers that makes the model.
        described: the model's config, or the folder that holds it.
        asked: "eager" or "sdpa".
    """
    if asked == FALLBACK:
        return asked
    from transformers import AutoConfig
    from transformers.models.auto.auto_factory import _get_model_class

    try:
        config = (
            AutoConfig.from_pretrained(described, local_files_only=True, trust_remote_code=False)
            if isinstance(described, Path)
            else described
        )
        model_class = _get_model_class(config, auto_class._model_mapping)
    except (OSError, KeyError, ValueError):  # loading the model says what is wrong with it
        return asked
    return asked if model_class._supports_sdpa else FALLBACK
