"""Sweeps with linked axes: beside the product of all axes, blocks that each have their own.

    hydra:
      sweeper:
        params: {seed: "0,1,2"}
        blocks:
          - {adapter: head_only}
          - {adapter: lora, target: qv, rank: "4,8,16"}

gives (1 + 3) x 3 jobs: each block is a product of its own with the axes of `params` and of the command line.
"""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from src.config.composition import sweep_jobs


class LinkedSweeper(BasicSweeper):
    """Hydra's own sweeper, except for the jobs that it runs."""

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        blocks: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.blocks = blocks or []

    def _parse_config(self) -> list[str]:
        """The axes of the config; none here, since `split_arguments` adds them to each block."""
        return []

    def split_arguments(  # type: ignore[override]  # Hydra's is static, and called on the instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job, in batches."""
        assert self.hydra_context is not None
        arguments = [str(override.input_line) for override in overrides]
        jobs = sweep_jobs(self.hydra_context.config_loader, arguments, self.params, self.blocks)
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))
