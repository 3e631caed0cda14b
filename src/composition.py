"""Say in three lines what Hydra and OmegaConf say in thirty: what was given, what is allowed, what to do."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from src.config import Config
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
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("full_key", "object_type"))]
    return "\n".join(lines[:3])


def _unknown_key(message: str, key: str) -> str:
    """The message for an option that doesn't exist, with those that do where the dataclasses know them."""
    override = re.search(r"Could not override '([\w.]+)'", message)
    given = override.group(1) if override else key
    owner, _, name = given.rpartition(".")
    schemas: dict[str, Any] = {"": Config, **{field.name: field.default_factory for field in fields(Config)}}
    if owner not in schemas:
        return f"'{given}' is not an option.\nAllowed: what the yaml in conf/{owner.partition('.')[0]} has under it."
    allowed = nearest_first(name, (field.name for field in fields(schemas[owner])))
    return f"'{given}' is not an option.\nAllowed: {', '.join(f'{owner}.{own}' if owner else own for own in allowed)}."
