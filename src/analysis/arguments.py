"""The command lines of the programs that read results: `results_dir=...`, in the manner of `src.run`."""

import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from src.analysis.collect import check_one_version, collect
from src.errors import UserError, nearest_first


def options(**defaults: str) -> dict[str, str]:
    """This program's options from its command line, each with its default.

    Raises:
        UserError: an option that the program doesn't have.
    """
    given = {str(key): str(value) for key, value in OmegaConf.from_cli(sys.argv[1:]).items()}
    for key in given:
        if key not in defaults:
            allowed = ", ".join(f"{name}=..." for name in nearest_first(key, defaults))
            raise UserError(f"{key} is not an option.\nAllowed: {allowed}.")
    return defaults | given


def runs_in(results_dir: Path) -> pd.DataFrame:
    """The runs under a results folder.

    Raises:
        UserError: it holds none, or those of several versions of the code.
    """
    frame = collect(results_dir)
    if frame.empty:
        raise UserError(
            f"{results_dir} holds no runs.\nMake some with `python -m src.run`, or name a folder with results_dir=..."
        )
    check_one_version(frame, results_dir)
    return frame
