"""How a program ends: what a user can put right is said in three lines with status 2, an interrupt with status 130."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from src.config.build import unknown_option
from src.config.composer import CONF
from src.config.schema import Config
from src.errors import UserError, nearest_first

FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def user_errors(schema: type = Config) -> Iterator[None]:
    """End the program with status 2 and a message where the block raises what a user can put right.

    Args:
        schema: the dataclass of the program's options, which an unknown one is compared with.
    """
    try:
        if sys.flags.optimize > 1:  # transformers reads its classes' docstrings
            raise UserError("Python's -OO (PYTHONOPTIMIZE=2) takes away what transformers needs.\nLeave it out.")
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if FULL_ERROR:
            raise
        print(f"error: {explain(error, schema)}", file=sys.stderr)
        sys.exit(2)


def explain(error: Exception, schema: type = Config) -> str:
    """The message for a user whose command couldn't be composed or run."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        options = [path.relative_to(f"{CONF}/{group}") for path in Path(CONF, group).rglob("*.yaml")]
        allowed = ", ".join(nearest_first(name, (str(option.with_suffix("")) for option in options)))
        return f"{group}={name} is not known.\nAllowed: {allowed}."
    cause = error.__cause__
    message = str(error)
    if isinstance(cause, OmegaConfBaseException) and cause.msg:
        message = f"{message.splitlines()[0]}\n{cause.msg}"
    unknown = re.search(r"Could not override '([\w.]+)'|Key '(\w+)' is not in struct", message)
    if unknown:
        return str(unknown_option(schema, unknown.group(1) or unknown.group(2)))
    if "To override a value use" in message or "No match in the defaults" in message:
        message += "\nIn a file's defaults: - override /adapter: lora, with a slash before the group."
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("full_key", "object_type"))]
    return "\n".join(lines[:3])
