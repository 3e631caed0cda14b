"""The one line of a running run: rewritten in place in a terminal, printed once at its end elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from src.console import columns, is_live, one_line

CLEAR_LINE = "\r\033[K"


class Screen:
    """Where runs say how they are: the program's output; from a worker's process, that of the program it works for."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def show(self, text: str) -> None:
        """Replace the line that says what is going on, in a terminal."""
        # A line that fills the terminal's last column would wrap, and the next one couldn't take its place.
        if is_live():
            print(f"{CLEAR_LINE}{one_line(text, (columns() or 0) - 1)}", end="", flush=True)

    def say(self, text: str, *, once: bool = False) -> None:
        """Print a line of its own, which stays; one that is said `once` isn't repeated by this screen."""
        if not (once and text in self._said):
            self._print(text)
        self._said |= {text} if once else set()

    def _print(self, text: str) -> None:
        print(f"{CLEAR_LINE}{text}" if is_live() else text, flush=True)


_screens = [Screen()]


def screen() -> Screen:
    """The screen of this process."""
    return _screens[-1]


@contextmanager
def shown_on(other: Screen) -> Iterator[None]:
    """Let the runs of the block say how they are on another screen."""
    _screens.append(other)
    try:
        yield
    finally:
        _screens.pop()


def say_once(text: str) -> None:
    """Print a line that is the same for several runs once."""
    screen().say(text, once=True)


class RunLine:
    """Shows a run's place in its sweep, its metrics as they come and the time left."""

    def __init__(self, position: str, label: str, max_steps: int) -> None:
        self.head = f"{position:>7} {label:<28}"
        self.max_steps = max_steps
        self.metrics: dict[str, float] = {}
        self.first: tuple[int, float] | None = None

    def show(self, text: str) -> None:
        """Replace the line's text, in a terminal."""
        screen().show(f"{self.head}  {text}")

    def say(self, text: str) -> None:
        """Print a line of its own, which stays."""
        screen().say(text)

    def show_step(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics known so far and the time that the remaining steps will take."""
        self.metrics |= metrics
        # Time is taken from the first report on: before it lies the setup too.
        self.first = self.first or (step, time.monotonic())
        shown = "  ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        left = self.seconds_left(step)
        told = "" if left is None else f"{duration(left)} left"
        self.show(f"step {step}/{self.max_steps}  {shown}  {told}")

    def end(self, outcome: str, seconds_left: float | None = None) -> None:
        """Print the line for good, with the time left for the sweep."""
        left = f"  ({duration(seconds_left)} left)" if seconds_left else ""
        screen().say(f"{self.head}  {outcome}{left}")

    def seconds_left(self, step: int) -> float | None:
        """The time that the remaining steps will take, where steps were reported before."""
        assert self.first is not None
        steps, seconds = step - self.first[0], time.monotonic() - self.first[1]
        return seconds / steps * (self.max_steps - step) if steps else None


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
