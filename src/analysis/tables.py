"""Tables from runs: a tidy frame in, a frame or its text out. The same runs give the same bytes."""

from typing import Any

import pandas as pd

# What makes two runs repetitions of each other with other seeds.
CELL = ["task", "model", "adapter", "trained_rank", "rank", "target", "lr", "alpha"]
# Columns of text; all others hold numbers.
WORDS = {
    "adapter", "target", "differs in", "not finished", "paper", "task", "model", "validation by", "test by", "method",
    "trust", "verdict", "why",
}  # fmt: skip
UNITS = {"validation": "validation_unit", "test": "unit"}
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each method, rank and target set: scores over seeds as mean and standard deviation.

    Runs are repetitions only where everything but the seed is equal; where other settings differ between the runs
    of a task and model, `differs` names them, so that no such difference is averaged over or goes unseen. `n`
    counts the finished runs behind a row; `failed` those that didn't finish, with their reasons in `reason`. The
    standard deviation is the sample's (n - 1), missing where n is 1.
    """
    rows = []
    runs = runs.assign(differs=differing_settings(runs))
    for cell, group in runs.groupby([*CELL, "differs"], dropna=False, sort=True):
        done = group[group["state"] == "done"]
        reasons = group.loc[group["state"] != "done", ["state", "reason"]]
        rows.append(
            {
                **dict(zip([*CELL, "differs"], cell, strict=True)),
                **{key: done[key].max() for key in ("validation_metric", "validation_unit", "metric", "unit")},
                "scaling": done["scaling"].max(),
                "trained": done["trained"].max(),
                "body_trained": done["body_trained"].max(),
                "trained_percent": 100 * done["trained"].max() / done["total"].max() if len(done) else None,
                "validation_mean": done["validation"].mean(),
                "validation_std": done["validation"].std(),
                "test_mean": done["test"].mean(),
                "test_std": done["test"].std(),
                "n": len(done),
                "run_seconds": done["run_seconds"].median(),
                "failed": len(reasons),
                "reason": "; ".join(sorted({f"{state}: {why}" for state, why in reasons.itertuples(index=False)})),
            }
        )
    return pd.DataFrame(rows)


def differing_settings(runs: pd.DataFrame) -> pd.Series:
    """For each run, those of its settings in which runs of its task and model differ, as in "trainer.max_steps=4".

    A method's own options are compared among the runs of that method.
    """
    texts = pd.Series("", index=runs.index)
    for _, own in runs.groupby(["task", "model"]):
        varying = {key for key in _varying(own["settings"]) if not key.startswith("adapter.")}
        for _, group in own.groupby("adapter"):
            options = {key for key in _varying(group["settings"]) if key.startswith("adapter.")}
            for index, settings in group["settings"].items():
                shown = sorted((varying | options) & settings.keys())
                texts[index] = ", ".join(f"{key}={settings[key]}" for key in shown)
    return texts


def _varying(settings: pd.Series) -> set[str]:
    keys = {key for own in settings for key in own}
    return {key for key in keys if len({own.get(key) for own in settings}) > 1}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison as texts for people: scores with their spread, shares in percent, counts with separators.

    The task, the model and the metrics have columns where the table holds several.
    """
    several: dict[str, Any] = {key: table[key] for key in ("task", "model") if table[key].nunique() > 1}
    metrics = {"validation by": table["validation_metric"], "test by": table["metric"]}
    if len({name for own in metrics.values() for name in own.dropna()}) > 1:
        several |= {heading: ["-" if pd.isna(name) else name for name in own] for heading, own in metrics.items()}
    columns = {
        **several,
        "adapter": table["adapter"],
        "rank": [_rank(*ranks) for ranks in zip(table["rank"], table["trained_rank"], strict=True)],
        "target": ["-" if pd.isna(target) else target for target in table["target"]],
        "lr": table["lr"].map(_number),
        "scaling": table["scaling"].map(_number),
        "trained, no head": table["body_trained"].map(_whole),
        "trained % of all": table["trained_percent"].map(lambda value: "-" if pd.isna(value) else f"{value:.3f}"),
        **dict(_scores(table, split) for split in ("validation", "test")),
        "n": table["n"].map(str),
        "seconds a run": table["run_seconds"].map(lambda value: "-" if pd.isna(value) else f"{value:.0f}"),
    }
    if table["differs"].any():
        columns["differs in"] = table["differs"].map(lambda text: text or "-")
    if table["failed"].any():
        columns["not finished"] = table["reason"].map(lambda reason: reason.replace("\n", " "))
    return pd.DataFrame(columns)


def markdown(table: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table that is also legible as it stands: numbers to the right, columns aligned."""
    columns = []
    for name in table.columns:
        cells = [str(cell).replace("|", "/") for cell in (name, *table[name])]
        width = max(3, *map(len, cells))
        left = name in WORDS
        rule = "-" * width if left else "-" * (width - 1) + ":"
        cells = [cell.ljust(width) if left else cell.rjust(width) for cell in cells]
        columns.append([cells[0], rule, *cells[1:]])
    return "".join("| " + " | ".join(line) + " |\n" for line in zip(*columns, strict=True))


def latex(table: pd.DataFrame) -> str:
    """A frame of texts as a LaTeX table over as many pages as it takes; needs booktabs and longtable."""
    columns = "".join("l" if name in WORDS else "r" for name in table.columns)
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (table.columns, *table.itertuples(index=False))]
    head = [rf"\begin{{longtable}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", r"\endhead"]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{longtable}"]) + "\n"


def _escaped(cell: object) -> str:
    return "".join(LATEX.get(character, character) for character in str(cell))


def _scores(table: pd.DataFrame, split: str) -> tuple[str, list[str]]:
    """A split's column: its heading, and mean ± standard deviation; in percent where all of them are shares."""
    means, spreads = table[f"{split}_mean"], table[f"{split}_std"]
    units = ["share" if pd.isna(unit) else unit for unit in table[UNITS[split]]]
    all_shares = set(units) <= {"share"}
    cells = []
    for mean, std, unit in zip(means, spreads, units, strict=True):
        scale, digits = (100, 1) if unit == "share" else (1, 3)
        percent = " %" if unit == "share" and not all_shares else ""
        spread = "" if pd.isna(std) else f" ± {scale * std:.{digits}f}"
        cells.append("-" if pd.isna(mean) else f"{scale * mean:.{digits}f}{spread}{percent}")
    return f"{split} %" if all_shares else split, cells


def _rank(rank: float, trained_rank: float) -> str:
    """The rank, and of which one where one training gave several."""
    return _whole(rank) + ("" if pd.isna(trained_rank) else f" of {trained_rank}")


def _whole(value: float) -> str:
    return "-" if pd.isna(value) else f"{int(value):,}"


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:g}"
