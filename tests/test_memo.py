"""Calls that mean the same are answered from memory, and no others."""

from dataclasses import dataclass, field

from src.config.memo import kept


@dataclass
class Options:
    values: dict[str, int] = field(default_factory=dict)


def test_configs_are_told_apart_by_their_content_and_the_latest_are_kept() -> None:
    calls: list[int] = []

    @kept(2)
    def total(options: Options, *, factor: int) -> int:
        calls.append(factor)
        return factor * sum(options.values.values())

    assert total(Options({"a": 1}), factor=3) == total(Options({"a": 1}), factor=3) == 3
    assert calls == [3]
    assert total(Options({"a": 2}), factor=3) == 6
    total(Options({"a": 1}), factor=3)  # used last, so the next new call drops the other
    total(Options({"a": 1}), factor=5)
    total(Options({"a": 1}), factor=3)
    assert calls == [3, 3, 5]
    total(Options({"a": 2}), factor=3)
    assert calls == [3, 3, 5, 3]


def test_a_key_says_what_decides() -> None:
    calls: list[str] = []

    @kept(1, key=lambda name, loud: name.lower())
    def greeting(name: str, loud: bool) -> str:
        calls.append(name)
        return name

    assert greeting("Ada", True) == greeting("ADA", False) == "Ada"
    assert calls == ["Ada"]
