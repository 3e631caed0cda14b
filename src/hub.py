"""What the hub has, at a pinned revision: from its cache, else over the network, else a quick and clear refusal."""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from src.errors import UserError

CONNECT_SECONDS = 3


def hub_folder(hub_id: str, revision: str | None, *, kind: str, patterns: list[str] | None, remedy: str) -> Path:
    """The local folder of a repository on the hub.

    Args:
        revision: a commit, branch or tag; the newest where None.
        kind: "model" or "dataset".
        patterns: the files that are needed, as in "*.json"; all where None.
        remedy: what a user without it can do, the last line of the message.

    Raises:
        UserError: it is neither in the cache nor to be had; within seconds where there is no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT

    def snapshot(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                hub_id,
                repo_type=kind,
                revision=revision,
                allow_patterns=patterns,
                local_files_only=local_files_only,
            )
        )

    try:
        return snapshot(local_files_only=True)
    except Exception:  # not in the cache, in whatever way the hub's client says so
        pass
    try:
        _check_reachable(ENDPOINT)
        return snapshot(local_files_only=False)
    except Exception as error:
        at = f" at revision {revision}" if revision else ""
        raise UserError(f"the {kind} {hub_id}{at} can't be had from the hub: {_reason(error)}.\n{remedy}") from error


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    if kind == "RevisionNotFoundError":
        return "it has no such revision"
    if kind == "GatedRepoError":
        return "its terms must be accepted on its page, and `hf auth login` done here"
    if kind == "RepositoryNotFoundError":
        return "there is no such repository, or it is private"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return "it isn't in the cache and the hub can't be reached"
    first = str(error).splitlines()[0][:120] if str(error) else ""
    return f"{kind}: {first}"


def _check_reachable(address: str) -> None:
    """Fail at once where there is no network; the hub's client would go on trying for half a minute."""
    url = urlsplit(address)
    if not getproxies():
        port = url.port or (80 if url.scheme == "http" else 443)
        socket.create_connection((url.hostname or "", port), timeout=CONNECT_SECONDS).close()
