"""What a metric is: an `evaluate.Metric` that says what it measures, whose idea it is, and how its value is read.

A metric is a folder with a module of its name, whose docstring says which evaluator it follows and what differs. Its
class derives from one of three: `MeanOfItems` where the value is a mean over items, `OneNumber` where it is of all
items together, `Metric` itself where it has parts. Abstract classes are passed over, by `evaluate.load` too, so that a
module's own class is the one that is found.
"""

import inspect
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate

ITEMS = "items"  # the key of the items' numbers in a result
UNDEFINED = "undefined"  # the key that says that the value can't be computed of these items


class Metric(evaluate.Metric, ABC):  # type: ignore[misc]  # evaluate has no types
    """The attributes that every metric has, and the computation of its result."""

    name: ClassVar[str]  # what `task.metric=` takes: the name of the folder
    citation: ClassVar[str]  # where the measure comes from
    unit: ClassVar[str] = "share"  # of the value: "share" for one up to 1, which tables show in percent, else a word
    higher_is_better: ClassVar[bool] = True
    takes: ClassVar[str]  # what predictions and references are, for people
    features: ClassVar[datasets.Features | list[datasets.Features]]  # the same, as `evaluate` checks it

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.getdoc(inspect.getmodule(type(self))) or "",
            citation=self.citation,
            inputs_description=self.takes,
            features=self.features,
        )

    def _build_data_dir(self) -> str:
        """The folder for what doesn't fit in memory: none is made where everything stays there."""
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    @abstractmethod
    def _compute(self, predictions: Any, references: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """The value by the metric's name, values of its parts by theirs, and each item's number as `items`.

        Args:
            predictions: one an item, in the order of `references`; both are as `features` has them.
            options: the metric's own, which `task.metric_options` gives.

        Raises:
            ValueError: a reference is none that the metric can read.
        """


class MeanOfItems(Metric):
    """A metric that is a mean over items, whose numbers go along for intervals and tests."""

    @abstractmethod
    def _items(self, predictions: Any, references: Any, *args: Any, **options: Any) -> Iterable[float]:
        """Each item's number, in the order of the items; arguments and errors are those of `_compute`."""

    def _compute(self, predictions: Any, references: Any, *args: Any, **options: Any) -> dict[str, Any]:
        numbers = [float(number) for number in self._items(predictions, references, *args, **options)]
        return {self.name: sum(numbers) / len(numbers), ITEMS: numbers}


class OneNumber(Metric):
    """A metric that is computed of all items together: a correlation, or a score of a corpus.

    Where it can't be computed, as for constant predictions, it counts as 0, and the result says so.
    """

    @abstractmethod
    def _value(self, predictions: Any, references: Any, *args: Any, **options: Any) -> float:
        """The metric's value, NaN where it is undefined; arguments and errors are those of `_compute`."""

    def _compute(self, predictions: Any, references: Any, *args: Any, **options: Any) -> dict[str, Any]:
        value = self._value(predictions, references, *args, **options)
        return {self.name: 0.0, UNDEFINED: True} if math.isnan(value) else {self.name: value}


def metric_in(path: Path) -> type[Metric]:
    """The metric's class that a module defines, read from its file.

    Raises:
        TypeError: the module has a class of `evaluate`'s that isn't one of those above.
    """
    name = f"{__package__}.{path.stem}.{path.stem}"
    module = sys.modules.get(name)
    if module is None or module.__file__ != str(path):
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = module_from_spec(spec)  # where dataclasses and pickle look for it
        spec.loader.exec_module(module)
    found = (kind for kind in vars(module).values() if inspect.isclass(kind) and not inspect.isabstract(kind))
    kind = next(kind for kind in found if issubclass(kind, evaluate.EvaluationModule))
    if not issubclass(kind, Metric):
        raise TypeError(f"{path.parent} has a {kind.__name__}.\nAllowed: a class on src.metrics.base.Metric.")
    return kind
