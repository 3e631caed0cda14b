"""A table for people: texts with footnotes, as Markdown and as LaTeX. The same table gives the same bytes.

Texts may have one kind of markup, that of Markdown: `**bold**`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

# Columns of text; all others hold numbers.
WORDS = {
    "adapter", "target", "differs in", "not finished", "paper", "task", "model", "validation by", "test by", "method",
    "trust", "verdict", "why", "tuning", "weights", "memory is", "hardware", "compared with", "trials", "tuned",
    "claim", "source", "cell", "cells", "metric",
}  # fmt: skip
BOLD = re.compile(r"\*\*(.+?)\*\*")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
         ">": r"\textgreater{}", "|": r"\textbar{}"}  # fmt: skip
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
LATEX |= {"±": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{MINUS SIGN}": "$-$", "≤": r"$\leq$"}
LATEX |= {"≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\to$", "†": r"$\dagger$", "‡": r"$\ddagger$", "°": r"$^\circ$",
          "§": r"\S{}"}  # fmt: skip
LATEX |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
LATEX |= {"\N{EN DASH}": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''", "ł": r"\l{}", "Ł": r"\L{}"}
LATEX |= {"\N{LEFT SINGLE QUOTATION MARK}": "`", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "ø": r"\o{}", "ß": r"\ss{}"}
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030c": "v", "\u0327": "c"}


@dataclass(frozen=True)
class Table:
    """A table: `text` for people, `values` as they were computed (for csv), `notes` below it."""

    text: pd.DataFrame
    values: pd.DataFrame
    notes: list[str] = field(default_factory=list)


def markdown(text: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """A frame of texts as a Markdown table, aligned to be read as plain text too, with its footnotes below.

    Columns named in `WORDS` are aligned to the left, all others, which hold numbers, to the right.
    """
    columns = []
    for name in text:
        cells = [_in_markdown(cell) for cell in (name, *text[name])]
        # At least three characters: a shorter rule isn't one in every dialect of Markdown.
        left, width = name in WORDS, max(3, *map(len, cells))
        rule = "-" * width if left else "-" * (width - 1) + ":"
        cells = [cell.ljust(width) if left else cell.rjust(width) for cell in cells]
        columns.append([cells[0], rule, *cells[1:]])
    lines = "".join("| " + " | ".join(line) + " |\n" for line in zip(*columns, strict=True))
    return lines + "".join(f"\n{_in_markdown(note)}\n" for note in notes)


def _in_markdown(cell: object) -> str:
    """A cell in one line, without a pipe that would end it."""
    return re.sub(r"\s+", " ", str(cell)).replace("|", r"\|")


def latex(text: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """A frame of texts as a LaTeX table over as many pages as it takes; needs booktabs and longtable."""
    columns = "".join("l" if name in WORDS else "r" for name in text.columns)
    lines = [_line(cells) for cells in (text.columns, *text.itertuples(index=False))]
    head = [rf"\begin{{longtable}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", r"\endhead"]
    below = [rf"\par\noindent {_in_latex(note)}" for note in notes]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{longtable}", *below]) + "\n"


def _line(cells: Iterable[object]) -> str:
    """A row; one that begins with a bracket or a star would be read as an argument of the line break before it."""
    line = " & ".join(map(_in_latex, cells)) + r" \\"
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def _in_latex(cell: object) -> str:
    """A cell in one line of LaTeX, with Markdown's bold as LaTeX's."""
    parts = BOLD.split(re.sub(r"\s+", " ", str(cell)))  # split by a group: every second part was bold
    escaped = ["".join(map(_escaped, part)) for part in parts]
    return "".join(rf"\textbf{{{part}}}" if index % 2 else part for index, part in enumerate(escaped))


def _escaped(character: str) -> str:
    """A character in pure ASCII, which any LaTeX engine reads without further packages."""
    if character in LATEX or character.isascii():
        return LATEX.get(character, character)
    apart = unicodedata.normalize("NFD", character)  # a letter and its accent as two characters
    if len(apart) == 2 and apart[0].isascii() and apart[1] in ACCENTS:
        return rf"\{ACCENTS[apart[1]]}{{{apart[0]}}}"
    # What has no letter in ASCII is named by its number: a visible gap instead of a wrong letter.
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(map(_escaped, plain)) or f"(U+{ord(character):04X})"
