"""Results kept within a process for calls with equal configs; for plain values there is `functools.lru_cache`."""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def kept(size: int, *, key: Callable[..., Any] | None = None) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep a function's results for its latest `size` different calls.

    Arguments that can't be hashed, as configs can't, are told apart by their content.

    Args:
        key: what decides the result, given the arguments; by default these themselves.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        results: OrderedDict[Hashable, T] = OrderedDict()

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            name = _hashable(key(*args, **kwargs) if key else (args, tuple(sorted(kwargs.items()))))
            if name not in results:
                while len(results) >= size:  # before the next is made: two models may not fit
                    results.popitem(last=False)
                results[name] = function(*args, **kwargs)
            results.move_to_end(name)
            return results[name]

        return wrapper

    return decorate


def _hashable(value: Any) -> Hashable:
    if isinstance(value, tuple):
        return tuple(map(_hashable, value))
    return value if isinstance(value, Hashable) else json.dumps(value, sort_keys=True, default=asdict)
