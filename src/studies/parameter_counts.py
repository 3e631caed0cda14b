"""The reported parameter counts beside the ledger's: equal, equal after rounding, different, or not fixed and why."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pandas as pd

from src.adapters.ledger import Ledger
from src.studies.reported import PERCENT, UNITS, load_readings, note, read_configuration, reported_counts

EQUAL, ROUNDED, DIFFERENT, NOT_FIXED = "equal", "equal after rounding", "different", "not fixed"


@dataclass(frozen=True)
class Counted:
    """What the ledger says of a configuration.

    `missing` names an axis that the method has and the report doesn't give; `sum` spells out the count by layer.
    """

    ledger: Ledger | None
    missing: str = ""
    sum: str = ""


def parameter_counts(counted: Callable[[list[str]], Counted]) -> pd.DataFrame:
    """A row for each reported count, with `verdict` and `why`.

    Args:
        counted: counts what overrides of `python -m src.params` ask for.
    """
    readings = load_readings()
    rows = [_row(row, readings, counted) for row in reported_counts().to_dict("records")]
    return pd.DataFrame(rows).astype({"counted": "Int64"})


def readable_counts(table: pd.DataFrame) -> pd.DataFrame:
    """The counts as texts for people, without the commands and the sources."""
    unit = table["params_unit"].map({"M": " M", "K": " K", PERCENT: " %"}).fillna("")
    counted = table["counted"].map(lambda count: "-" if pd.isna(count) else f"{count:,}")
    return pd.DataFrame(
        {
            "paper": table["paper"] + ", " + table["table"],
            "model": table["model"],
            "method": table["method"],
            "rank": table["rank"].replace("", "-"),
            "target": table["target"].replace("", "-"),
            "reported": [_with_separators(count) for count in table["params_reported"]] + unit,
            "trust": table["trust"],
            "counted": counted,
            "verdict": table["verdict"],
            "why": table["why"],
        }
    )


def _with_separators(count: str) -> str:
    """A whole count with separators; any other is left as the paper writes it."""
    return f"{int(count):,}" if count.isdigit() else count


def _row(row: dict[str, Any], readings: dict[str, Any], counted: Callable[[list[str]], Counted]) -> dict[str, Any]:
    """A reported count with the ledger's, the verdict, its reason, and the command that counts it again."""
    reading = read_configuration(row, readings)
    counted_config = counted(reading.overrides) if reading.overrides else Counted(None)
    command = f"python -m src.params {shlex.join(reading.overrides)}" if counted_config.ledger else ""
    if counted_config.ledger is None:
        reason = reading.reason or f"the {counted_config.missing} isn't given"
        return row | {"counted": None, "verdict": NOT_FIXED, "why": reason, "command": command}
    # Papers differ in whether the classifier's head counts as trained.
    with_head = row["paper"] in readings["head_counted"]
    count = counted_config.ledger.trained if with_head else counted_config.ledger.paper_trained
    verdict, why = count_verdict(row["params_reported"], row["params_unit"], count, counted_config.ledger)
    parts = [note(row, readings) or why, counted_config.sum if not note(row, readings) else ""]
    return row | {"counted": count, "verdict": verdict, "why": "; ".join(filter(None, parts)), "command": command}


def count_verdict(reported: str, unit: str, count: int, ledger: Ledger) -> tuple[str, str]:
    """The verdict on a reported count, and in words how it follows from the ledger's.

    A percentage may be of the base model or, as PEFT prints it, of base and adapter together.

    Args:
        reported: the count as the paper writes it, whose digits say how it was rounded.
        unit: a key of `UNITS`, or `PERCENT`.
        count: the ledger's count, in parameters.
    """
    if unit == PERCENT:
        totals = {"of the base model": ledger.total, "of base model and adapter, as PEFT prints it": ledger.peft_total}
        shares = {name: Decimal(100 * count) / total for name, total in totals.items()}
        ways = {name: _matches(reported, share) for name, share in shares.items()}
        # Rounding is tried before cutting: "" sorts before " (cut ...)".
        for name in sorted(shares, key=lambda name: ways[name] or ""):
            if ways[name] is not None:
                return ROUNDED, f"{shares[name]:.4f} % {name}{ways[name]}"
        return DIFFERENT, " or ".join(f"{share:.4f} % {name}" for name, share in shares.items())
    exact = Decimal(count) / UNITS[unit]  # decimal, so that rounding is that of the digits in the paper
    if UNITS[unit] == 1:
        return (EQUAL, "") if exact == Decimal(reported) else (DIFFERENT, _ratio(reported, exact))
    how = _matches(reported, exact)
    return (DIFFERENT, _ratio(reported, exact)) if how is None else (ROUNDED, how.strip(" ()"))


def _matches(reported: str, exact: Decimal) -> str | None:
    """How the exact number becomes the reported one: "" rounded, " (cut)" with its last digits left off, else None."""
    reported_number = Decimal(reported)
    zeros = len(reported) - len(reported.rstrip("0")) if "." not in reported else 0
    decimals = len(reported.partition(".")[2])
    # The value of the last digit that was reported: 0.1 for "55.2", 1,000 for "175000".
    step = Decimal(10) ** (zeros - decimals)
    if (exact / step).quantize(Decimal(1), ROUND_HALF_UP) * step == reported_number:
        return ""
    return " (cut, not rounded)" if math.floor(exact / step) * step == reported_number else None


def _ratio(reported: str, exact: Decimal) -> str:
    """How far apart the two counts are, in words."""
    return f"counted is {exact / Decimal(reported):.3f} times what is reported"
