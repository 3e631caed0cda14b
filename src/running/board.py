"""How several runs at once are shown: a line each, rewritten in place in a terminal, and above them what stays."""

from rich.console import Console
from rich.live import Live
from rich.text import Text

from src.console import columns, is_live
from src.running.progress import Screen


class Board(Screen):
    """The lines of a sweep's workers."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[int, str] = {}
        # Nothing else prints here, and so nothing has to be led past the lines.
        self._live = Live(
            console=Console(highlight=False),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def open(self) -> None:
        """Begin to show lines, in a terminal."""
        if is_live():
            self._live.start()

    def close(self) -> None:
        """Take the lines away; what stays stays."""
        self._live.stop()

    def show_of(self, worker: int, text: str) -> None:
        """Replace a worker's line; an empty text takes it away."""
        self._lines[worker] = text
        if self._live.is_started:
            # By the terminal itself, which may have been resized, and less its last column, in which a line would wrap.
            self._live.console.width = max(1, (columns() or 0) - 1)
            shown = "\n".join(" ".join(line.split("\n")) for _, line in sorted(self._lines.items()) if line)
            self._live.update(Text(shown, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _print(self, text: str) -> None:
        if self._live.is_started:
            self._live.console.print(Text(text), soft_wrap=True)
        else:
            super()._print(text)
