"""The parameter ledger of a method on a model, without weights and without a network.

    python -m src.params model=mistral_7b adapter=lora_sb rank=96 target=all_linear
    python -m src.params -m 'model=glob(*)' adapter=lora,vera rank=8 format=csv

`format=table`, `csv` or `json`. A classifier's head has `num_labels` outputs (2 unless told).
"""

import json
import sys
from typing import TYPE_CHECKING, Any

from src.config.arguments import answer_help, split_sweep
from src.config.composition import user_errors
from src.config.schema import CountConfig
from src.console import steady_output
from src.errors import UserError, first_line
from src.interrupts import interruptible
from src.quiet import quiet_warnings
from src.studies.counting import count_configs, ledger_of

if TYPE_CHECKING:
    from src.adapters.ledger import Ledger


def main() -> None:
    """Count and print what the command line asks for; a user's mistake ends the program with status 2.

    In a sweep a method that doesn't fit a model is named after the rows that could be counted; the status is then 1.
    """
    answer_help(__doc__)
    quiet_warnings()
    with user_errors(CountConfig):
        overrides, sweep = split_sweep(sys.argv[1:])
        configs = count_configs(overrides, sweep=sweep)
        if not sweep and configs[0].format == "table":
            print(sheet(configs[0], ledger_of(configs[0], keep_model=False)))
            return
        rows, refused = _rows(configs, sweep)
    if configs[0].format == "json":
        print(json.dumps(rows, indent=1))
    elif configs[0].format == "csv" and rows:
        import pandas as pd

        print(pd.DataFrame(rows).astype({"rank": "Int64"}).to_csv(index=False), end="")
    elif rows:
        print_table(rows)
    if refused:
        print("\n".join(f"not counted: {line}" for line in refused), file=sys.stderr)
        sys.exit(1)


def _rows(configs: list[CountConfig], sweep: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The counts, each once, and in a sweep the refusals of what can't be counted."""
    rows, refused = {}, []
    for config in configs:
        try:
            counts = count_row(config, ledger_of(config, keep_model=sweep))
            rows[json.dumps(counts)] = counts  # a method without a rank is counted once in a sweep of ranks
        except UserError as error:
            if not sweep:
                raise
            refused.append(f"model={config.model.name} adapter={config.adapter.name}: {first_line(error)}")
    return list(rows.values()), list(dict.fromkeys(refused))


def count_row(config: CountConfig, ledger: "Ledger") -> dict[str, Any]:
    """One count as plain values: what was counted, the ledger, and both other conventions by name."""
    return {
        "model": config.model.name,
        "adapter": config.adapter.name,
        "rank": config.rank if config.has_axis("rank") else None,
        "target": config.target.name if config.has_axis("target") else None,
        **ledger.as_dict(),
        "trained_percent": round(ledger.trained_percent, 6),
        "paper_trained": ledger.paper_trained,
        "peft_total": ledger.peft_total,
    }


def sheet(config: CountConfig, ledger: "Ledger") -> str:
    """One count as a page: every line with its share of the base model, then the other conventions."""
    what = [f"model={config.model.name}", f"adapter={config.adapter.name}"]
    what += [f"rank={config.rank}"] if config.has_axis("rank") else []
    what += [f"target={config.target.name}"] if config.has_axis("target") else []
    counts = {
        "adapter, trained": ledger.adapter_trained,
        "head, trained": ledger.head_trained,
        "other, trained": ledger.other_trained,
        "trained in all": ledger.trained,
        "adapter, frozen but stored": ledger.adapter_frozen,
        "base, frozen": ledger.base_frozen,
        "base with its head": ledger.total,
    }
    lines = [f"  {name:<28}{number:>18,}{100 * number / ledger.total:>12.4f} %" for name, number in counts.items()]
    return "\n".join(
        [
            " ".join(what),
            *lines,
            f"  {'saved adapter and head':<28}{_size(ledger.adapter_bytes):>18}",
            f"  {'optimizer state (AdamW)':<28}{_size(ledger.optimizer_bytes):>18}",
            f"  as papers count, without the head: {ledger.paper_trained:,}",
            f"  as PEFT prints it: {ledger.trained:,} || {ledger.peft_total:,} || {ledger.trained_percent:.2f}%",
            "  (PEFT's total has adapter and head on top; the percentage is of the base with its head, as above)",
        ]
    )


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a row for each count, with sizes in bytes, kB, MB or GB (powers of 1000)."""
    from rich.console import Console
    from rich.table import Table

    columns = {
        "model": "model", "adapter": "adapter", "rank": "rank", "target": "target", "adapter_trained": "adapter",
        "head_trained": "head", "other_trained": "other", "adapter_frozen": "frozen", "total": "base and head",
        "trained_percent": "trained %", "adapter_bytes": "saved", "optimizer_bytes": "optimizer",
    }  # fmt: skip
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in columns.values():
        table.add_column(name, justify="left" if name in ("model", "target") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(key, row[key]) for key in columns))
    # As wide as it takes: Rich would cut the numbers to a narrow terminal.
    Console(width=10_000, highlight=False, markup=False, emoji=False).print(table, crop=False)
    print("adapter, head, other: trained; frozen: stored with the adapter; % of the base model with its head")


def _cell(key: str, value: Any) -> str:
    """A value as a text: bytes with their unit, counts with separators."""
    if value is None:
        return "-"
    if key.endswith("_bytes"):
        return _size(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else str(value)


def _size(count: float) -> str:
    """A number of bytes with the unit that leaves at most four digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 10_000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


if __name__ == "__main__":
    with steady_output(is_product=True), interruptible():
        main()
