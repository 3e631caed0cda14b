"""What the model in a folder is: its linear modules, head and tokenizer, and a YAML file for `conf/model`.

    python -m src.inspect model.path=models/mine
    python -m src.inspect model.path=models/mine format=yaml > conf/model/mine.yaml

`model.architecture` is classifier, causal_lm or seq2seq_lm, where the folder's own isn't meant; `model.name` is the
folder's name unless told. No weight is loaded.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.arguments import answer_help, options
from src.config.checks import check_choice
from src.config.composition import user_errors
from src.console import steady_output
from src.errors import UserError
from src.interrupts import interruptible
from src.quiet import quiet_libraries

if TYPE_CHECKING:
    from src.models.description import Description

FORMATS = ("text", "yaml")
ARCHITECTURE, NAME, PATH = "model.architecture", "model.name", "model.path"


def main() -> None:
    """Print the facts and the YAML; a user's mistake ends the program with status 2."""
    answer_help(__doc__)
    with user_errors():
        arguments = options(**{PATH: "", ARCHITECTURE: "", NAME: "", "format": "text"})
        check_choice("format", arguments["format"], FORMATS)
        if not arguments[PATH]:
            raise UserError("No model is named.\nGive model.path=<the folder that holds it>.")
        print(inspection(Path(arguments[PATH]), arguments[ARCHITECTURE], arguments[NAME], arguments["format"]), end="")


def inspection(folder: Path, architecture: str, name: str, form: str) -> str:
    """What is printed of a folder's model: facts and YAML, or the YAML alone.

    Raises:
        UserError: the folder holds no model that transformers reads.
    """
    quiet_libraries()
    from src.models.description import describe
    from src.models.model_yaml import model_yaml

    description = describe(folder, architecture)
    yaml = model_yaml(description, name or re.sub(r"\W+", "_", folder.resolve().name).strip("_") or "mine")
    if form == "yaml":
        return yaml
    return f"{facts(description)}\n\n{yaml}"


def facts(description: "Description") -> str:
    """What was read, as a page: the linear modules with their sizes and guessed roles, the head, the tokenizer."""
    from src.models.description import expert_matrices, tokenizer_facts

    model = description.model
    rows = [
        (f"{group.count} x {group.module}", f"{group.out_features:,} x {group.in_features:,}", ", ".join(group.roles))
        for group in description.groups
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)] if rows else [0, 0]
    head = ", ".join(description.head) or "none is trained beside the method"
    return "\n".join(
        [
            f"{description.folder}: {type(model).__name__}, {model.num_parameters():,} parameters, "
            f"read as {description.architecture}",
            "\nlinear modules (out x in), the roles guessed from their names",
            *(f"  {name.ljust(widths[0])}  {size.rjust(widths[1])}  {roles or '-'}" for name, size, roles in rows),
            *(f"  {line}" for line in expert_matrices(model)),
            f"\nhead: {head}",
            f"not in the checkpoint: {', '.join(description.lacking) or 'nothing'}",
            "\ntokenizer",
            *(f"  {name:<14}  {value}" for name, value in tokenizer_facts(description).items()),
        ]
    )


if __name__ == "__main__":
    with steady_output(is_product=True), interruptible():
        main()
