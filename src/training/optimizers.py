"""AdamW in the variants that save memory: moments in 8 bits, or in pages that the CPU's memory takes up.

They are those of bitsandbytes (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861), which keeps the moments of
tensors with fewer than 4,096 numbers in float32.
"""

import importlib
from typing import Any

import torch

from src.config.schema import TrainerConfig
from src.errors import UserError

PLAIN = "adamw"
CLASSES = {"adamw_8bit": "AdamW8bit", "adamw_paged": "PagedAdamW", "adamw_paged_8bit": "PagedAdamW8bit"}


def optimizer_of(settings: TrainerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over groups with a rate and a weight decay each.

    Raises:
        UserError: it is one of bitsandbytes, which isn't installed, or has pages and no GPU.
    """
    if settings.optimizer == PLAIN:
        return torch.optim.AdamW(groups, eps=settings.adam_eps, fused=True)
    if "paged" in settings.optimizer and groups[0]["params"][0].device.type != "cuda":
        raise UserError(
            f"trainer.optimizer={settings.optimizer} needs a GPU, whose memory the pages leave.\n"
            f"Allowed on a CPU: {PLAIN}, adamw_8bit."
        )
    try:
        library = importlib.import_module("bitsandbytes.optim")
    except ImportError as error:
        raise UserError(
            f"trainer.optimizer={settings.optimizer} needs bitsandbytes: pip install -e '.[quantization]'.\n"
            f"Or set trainer.optimizer={PLAIN}."
        ) from error
    optimizer: torch.optim.Optimizer = getattr(library, CLASSES[settings.optimizer])(groups, eps=settings.adam_eps)
    return optimizer
