"""Which parts of a model read something else than text, as the vision tower of Gemma 3 does."""

from transformers import PreTrainedModel


def beside_text(model: PreTrainedModel) -> tuple[str, ...]:
    """How the names of modules begin that lie in such parts: models of their own, whose config is not the text's."""
    if model.config.is_encoder_decoder:  # its two halves may have a config each, and both read text
        return ()
    of_text = (type(model.config), type(model.config.get_text_config()))
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and type(module.config) not in of_text
    )
