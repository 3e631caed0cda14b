"""The program that mirrors runs into W&B, beside the one that trains: `src.running.tracking` starts and feeds it.

A process of its own, so that whatever W&B does ends here: what it prints, raises, waits for, and its exit. It reads one
JSON object a line, each with its `act`, and answers with one a line: `stopped` where it raised something, and at which
act; `note` where there is something to say; `finished` when a run has reached W&B or its files. It imports nothing of
`src`, as it is started by its path.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

START_SECONDS = 20  # for W&B's server to answer
SHOWN_CHARACTERS = 100  # of its reason


class Mirror:
    """The run that is mirrored at the moment, and whether W&B can be reached."""

    def __init__(self) -> None:
        self.run: Any = None
        self.reachable = True

    def start(self, mode: str, folder: str, run: dict[str, Any]) -> str | None:
        """Begin a run: online, or offline for good once W&B couldn't be reached; returns what there is to say."""
        import wandb

        # Where that can't be written, W&B would take the folder for temporary files and not say so.
        files = Path(folder, "wandb")
        files.mkdir(parents=True, exist_ok=True)
        if not os.access(files, os.W_OK):
            raise PermissionError(f"{files} can't be written")
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=START_SECONDS
        )
        # The same id for the same run: W&B then replaces it, as the folder of results does.
        init = partial(wandb.init, **run, dir=folder, reinit="finish_previous", settings=settings)
        if mode == "online" and self.reachable:
            try:
                self.run = init(mode="online", resume="allow")
                return None
            except wandb.errors.Error as error:
                self.reachable = False
                reason = (str(error) or type(error).__name__).splitlines()[0][:SHOWN_CHARACTERS]
                wandb.teardown()  # its service still holds the run's id
        else:
            reason = None
        self.run = init(mode="offline")
        if reason is None:
            return None
        return f"W&B can't be reached ({reason}): tracked offline from here, send it later with `wandb sync`"

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Do what is asked; the answer, where there is one."""
        act = request.pop("act")
        if act == "start":
            note = self.start(**request)
            return {"note": note} if note else None
        if act == "log":
            self.run.log(request["metrics"], step=request["step"])
        elif act == "summarize":
            self.run.summary.update(request["values"])
        else:
            self.finish(request["exit_code"])
            return {"finished": True}
        return None

    def finish(self, exit_code: int) -> None:
        """End the run, if there is one."""
        run, self.run = self.run, None
        if run is not None:
            run.finish(exit_code=exit_code)


def main() -> None:
    """Serve until the program that trains is gone; a run that it leaves behind has failed."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what W&B prints, and its own process
        os.dup2(null, stream)
    mirror = Mirror()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        act = request["act"]
        try:
            answer = mirror.answer(request)
        # Whatever it is, it must not be more than a line in the other program.
        except BaseException as error:
            answer = {"stopped": f"{type(error).__name__}: {error}", "act": act}
        if answer:
            print(json.dumps(answer), file=replies, flush=True)
    mirror.finish(1)


if __name__ == "__main__":
    main()
