"""BitFit (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199v5): the biases alone.

Trained: every bias of the base model, those of linear layers and norms alike (section 3). Frozen: all else. A bias is
a parameter that its module calls `bias`, or by a name that ends in `_bias`, as DeBERTa's `q_bias` and `v_bias` do; the
authors' code looks for the word anywhere in the parameters' names, which also finds the tables of relative positions
that T5 calls `relative_attention_bias`.
"""

from torch import nn

from src.adapters.base import Method, Setup
from src.errors import UserError


class BitFit(Method):
    """Train the biases of the base model."""

    @classmethod
    def inject_into(cls, model: nn.Module, setup: Setup) -> nn.Module:
        """Let every bias require gradients.

        Raises:
            UserError: the model has none.
        """
        # By the last part of the name: what stands before it names modules.
        biases = [
            parameter
            for name, parameter in model.named_parameters()
            if f"_{name.rpartition('.')[2]}".endswith("_bias") and parameter.is_floating_point()
        ]
        if not biases:
            raise UserError(
                f"bitfit trains biases; this {type(model).__name__} has none.\n"
                "Choose a model with biases, as BERT has them, or another method."
            )
        for bias in biases:
            bias.requires_grad_(True)
        return model
