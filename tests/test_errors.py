"""What a message shows of another library's exception."""

import pytest

from src.errors import SHOWN_CHARACTERS, first_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("a\nb", "a"),
        ("\n \n  the third\nb", "the third"),
        ("", "ValueError"),
        (" \n\t\n", "ValueError"),
        ("word " * 100, "word " * 39 + "..."),
    ],
)
def test_an_exception_is_shown_by_its_first_line_that_says_something(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line
    assert len(line) <= SHOWN_CHARACTERS


def test_an_exception_without_arguments_is_shown_by_its_class() -> None:
    assert first_line(AssertionError()) == "AssertionError"
