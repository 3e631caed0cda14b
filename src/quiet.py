"""Keep the libraries' progress bars, advice and warnings out of a run's output; errors still show."""

import logging
import os
import warnings


def quiet_warnings() -> None:
    """Lower the verbosity of what can be lowered without importing anything."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in ("accelerate", "torch", "evaluate", "huggingface_hub", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Lower the libraries' verbosity for this process; to be called before they do any work."""
    quiet_warnings()
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
