"""The page: data, scripts and styles in one file."""

import json
import re
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from src.analysis.report.data import without_nan


def page(data: dict[str, Any]) -> str:
    """The whole HTML file, Plotly's library included; it requests nothing from outside.

    Args:
        data: what `report_data` gives; NaN in it becomes null.
    """
    folder = files("src.analysis.report")
    parts = {
        "STYLE": (folder / "page.css").read_text(encoding="utf-8"),
        # "</script>" in a message would end the script that holds the data, and "<!--<script>" would keep it open.
        "DATA": json.dumps(without_nan(data), allow_nan=False, separators=(",", ":")).replace("<", r"\u003c"),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": (folder / "page.js").read_text(encoding="utf-8"),
    }
    text = (folder / "page.html").read_text(encoding="utf-8")
    # All at once: a part that has been put in is no place for another.
    return re.sub(r"/\*([A-Z]+)\*/", lambda mark: parts[mark[1]], text)
