"""Logical form accuracy of WikiSQL: the share of SQL queries equal to the reference query. Higher is better.

Follows WikiSQL's evaluator (salesforce/WikiSQL, evaluate.py and `Query.__eq__` in lib/query.py) as it runs by default:
the same aggregation and column, and the same *set* of conditions, whose order counts only with its `--ordered`. Values
are compared as text without regard to case, so '4' is 4 and isn't 4.0. That evaluator compares column indices; this one
compares texts of the form

    SELECT [MAX|MIN|COUNT|SUM|AVG] <column> FROM table [WHERE <column> <=, > or <> <value> [AND ...]]

so columns are compared without regard to case too, and runs of white space count as one space. A value may stand in
single quotes, which it may hold too, without escapes. Both sides are read by one rule, so a column or a value that
looks like the form itself is cut alike; only for a value that holds "' and " does the order of conditions count. A
prediction of another form is wrong; nothing is executed.
"""

import re
from collections.abc import Iterable
from typing import Any

from src.metrics.base import MeanOfItems
from src.metrics.inputs import TEXTS

QUERY = re.compile(r"select (?P<selected>.+?) from table(?: where (?P<conditions>.+))?")
# A quoted value ends at the quote before the next condition or the end, so it may hold quotes and "and".
CONDITION = re.compile(r"(?P<column>.+?) (?P<operator>[=<>]) (?P<value>'.*?'|.+?)(?: and |$)")

# What is selected (aggregation and column), and the conditions as (column, operator, value).
Query = tuple[str, frozenset[tuple[str, str, str]]]


def parsed(text: str) -> Query | None:
    """A query's parts in lower case; None if the text is of another form."""
    query = QUERY.fullmatch(" ".join(text.lower().split()))
    if query is None:
        return None
    conditions, position, rest = set(), 0, query["conditions"] or ""
    while position < len(rest):
        condition = CONDITION.match(rest, position)
        if condition is None:
            return None
        conditions.add((condition["column"], condition["operator"], unquoted(condition["value"])))
        position = condition.end()
    return query["selected"], frozenset(conditions)


def unquoted(value: str) -> str:
    """A value without the single quotes around it."""
    return value[1:-1].strip() if len(value) > 1 and value[0] == value[-1] == "'" else value


class LogicalForm(MeanOfItems):
    """Share of equal queries, 0 to 1."""

    name = "logical_form"
    citation = "Zhong et al. 2017, https://arxiv.org/abs/1709.00103"
    takes = "predictions, references: SQL queries as text"
    features = TEXTS

    def _items(self, predictions: Any, references: Any) -> Iterable[float]:
        right = [parsed(text) for text in references]
        if None in right:
            raise ValueError(f"The reference {references[right.index(None)]!r} is no query of WikiSQL's form.")
        pairs = zip(predictions, right, strict=True)
        return (parsed(answer) == query for answer, query in pairs)
