"""Run one comparison or a sweep of them.

    python -m src.run adapter=lora rank=8 target=qv seed=0
    python -m src.run -m adapter=lora,lora_fa,lora_sb rank=4,8,16

Exit status: 0 if every run is done, 1 if one isn't, 2 for a mistake in what was asked, 130 when interrupted
(143 by SIGTERM).
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from src.config.composition import CONF, user_errors
from src.config.schema import Config
from src.console import steady_output
from src.interrupts import RESUMES, interruptible
from src.running.lifecycle import run
from src.running.sweep import Plan, closing_table

sys.path.append(str(Path(__file__).parent / "plugins"))  # Hydra takes plugins from a package hydra_plugins alone


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(composed: DictConfig) -> None:
    """Do one run, alone or as a job of a sweep; the checks before and a sweep's end are `SweepCallback`'s."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        run(Config.from_hydra(composed), Plan.read(Path(HydraConfig.get().sweep.dir)))
        return
    config = Config.from_hydra(composed)
    plan = Plan.of([config])
    state = run(config, plan)
    print(f"{'results' if plan.to_run else 'done already'}: {plan.folders[0]}")
    sys.exit(0 if state == "done" else 1)


def cli() -> None:
    """Call `main` so that a user's mistake is answered with its message alone."""
    with steady_output(), interruptible(RESUMES), user_errors(), closing_table():
        os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise, where it would print and exit
        main()


if __name__ == "__main__":
    cli()
