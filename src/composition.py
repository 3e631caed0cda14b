"""Say in three lines what Hydra and OmegaConf say in thirty: what was given, what is allowed, what to do."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from src.errors import UserError, nearest_first

FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program with status 2 and a message where the block raises what a user can put right."""
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if FULL_ERROR:
            raise
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)


def explain(error: Exception) -> str:
    """The message for a user whose command couldn't be composed or run."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = error.missing_cfg_file.rpartition("/")
        allowed = ", ".join(nearest_first(name, error.options))
        return f"{group}={name} is not known.\nAllowed: {allowed}."
    cause = error.__cause__
    message = str(error)
    if isinstance(cause, OmegaConfBaseException) and cause.msg:
        message = f"{message.splitlines()[0]}\n{cause.msg}"
    unknown = re.search(r"Key '(\w+)' is not in struct|Key '(\w+)' not in '(\w+)'", message)
    if unknown:
        return _unknown_key(message, unknown.group(1) or unknown.group(2))
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n".join(lines[:3])


def _unknown_key(message: str, key: str) -> str:
    from dataclasses import fields

    from src import config

    override = re.search(r"Could not override '([\w.]+)'", message)
    given = override.group(1) if override else key
    owner, _, name = given.rpartition(".")
    schemas = {"": config.Config, **{field.name: field.default_factory for field in fields(config.Config)}}
    schema = schemas.get(owner)
    allowed = [field.name for field in fields(schema)] if isinstance(schema, type) else []
    names = ", ".join(f"{owner}.{name}" if owner else name for name in nearest_first(name, allowed))
    return f"'{given}' is not an option.\n" + (
        f"Allowed: {names}." if names else f"See the yaml in conf/{owner.split('.')[0]}."
    )
