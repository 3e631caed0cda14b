"""The tables of a results folder: each a function of its runs and their comparison, None where it has no content."""

from collections.abc import Callable

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.tables.comparison_table import comparison_table
from src.analysis.tables.equal_parameters import equal_parameters
from src.analysis.tables.forgetting import forgetting
from src.analysis.tables.learning_rates import learning_rates
from src.analysis.tables.memory_and_time import memory_and_time
from src.analysis.tables.rank_versus_accuracy import rank_versus_accuracy
from src.analysis.tables.target_sets import target_sets

MakeTable = Callable[[pd.DataFrame, Comparison], Table | None]
TABLES: dict[str, MakeTable] = {
    "comparison": comparison_table,
    "rank_versus_accuracy": rank_versus_accuracy,
    "target_sets": target_sets,
    "equal_parameters": equal_parameters,
    "memory_and_time": memory_and_time,
    "learning_rates": learning_rates,
    "forgetting": forgetting,
}
