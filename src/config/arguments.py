"""The command lines of the programs that read results: `results_dir=...`, in the manner of `src.run`."""

import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from src.errors import UserError, nearest_first


def answer_help(text: str | None, arguments: Sequence[str] | None = None) -> None:
    """Print a program's docstring and end it with status 0, where its command line asks for help."""
    if {"-h", "--help"} & set(sys.argv[1:] if arguments is None else arguments):
        print((text or "").strip())
        sys.exit(0)


def options(arguments: Sequence[str] | None = None, **defaults: str) -> dict[str, str]:
    """A program's options from its command line, each with its default.

    Args:
        arguments: those to read, in place of the program's.

    Raises:
        UserError: an option that the program doesn't have.
    """
    dotted = OmegaConf.from_cli(list(sys.argv[1:] if arguments is None else arguments))
    values = {str(key): str(value) for key, value in dotted.items()}
    for key in values:
        if key not in defaults:
            allowed = ", ".join(f"{name}=..." for name in nearest_first(key, defaults))
            raise UserError(f"{key} is not an option.\nAllowed: {allowed}.")
    return defaults | values
