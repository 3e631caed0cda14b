"""The command line of the programs that read results: `results_dir=...`, in the manner of `src.run`."""

import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from src.analysis.collect import collect
from src.errors import UserError


def runs_asked_for(arguments: list[str]) -> tuple[Path, pd.DataFrame]:
    """The results folder named on the command line (default `results`) and its runs.

    Raises:
        UserError: another option, or a folder without runs.
    """
    given = OmegaConf.to_container(OmegaConf.from_cli(arguments))
    assert isinstance(given, dict)
    results_dir = Path(str(given.pop("results_dir", "results")))
    if given:
        raise UserError(f"{', '.join(map(str, given))} is not an option.\nAllowed: results_dir=FOLDER.")
    frame = collect(results_dir)
    if frame.empty:
        raise UserError(
            f"{results_dir} holds no runs.\nMake some with `python -m src.run`, or name a folder with results_dir=..."
        )
    return results_dir, frame


def runs_or_exit() -> tuple[Path, pd.DataFrame]:
    """`runs_asked_for` by this program's arguments; a mistake ends it with its message and status 2."""
    try:
        return runs_asked_for(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
