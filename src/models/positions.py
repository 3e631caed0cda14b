"""How many tokens a model can read: by the embeddings of its positions where it has some, else by its config."""

from torch import nn
from transformers import PreTrainedModel

from src.models.text_part import beside_text

NAMES = ("position_embeddings", "embed_positions", "position_embedding", "wpe")  # of embeddings of positions


def room(model: PreTrainedModel) -> int | None:
    """The tokens that the model has positions for; None where it has no bound, as with relative positions."""
    elsewhere = beside_text(model)
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in NAMES and not name.startswith(elsewhere)
    ]
    if tables:
        return min(table.num_embeddings - _skipped(table) for table in tables)
    config = model.config.get_text_config()
    bound = None if getattr(config, "relative_attention", False) else getattr(config, "max_position_embeddings", None)
    return bound if bound and bound > 0 else None


def _skipped(table: nn.Embedding) -> int:
    """Rows before the first token's: OPT and BART leave out 2; RoBERTa counts from behind its padding id."""
    behind_padding = 0 if table.padding_idx is None else table.padding_idx + 1
    return int(getattr(table, "offset", behind_padding))
