"""What the hub has, at a pinned revision: from its cache, else over the network, else a quick and clear refusal."""

import socket
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from src.errors import UserError, first_line

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
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

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

    cached = None
    with suppress(Exception):  # not in the cache, in whatever way the hub's client says so
        cached = snapshot(local_files_only=True)
    if cached and _is_complete(cached):
        return cached
    cause = None
    missing = "it isn't in the cache and "
    if HF_HUB_OFFLINE:
        reason = f"{missing}HF_HUB_OFFLINE is set"
    elif not _is_reachable(ENDPOINT):
        reason = f"{missing}the hub can't be reached"
    else:
        try:
            return snapshot(local_files_only=False)
        except Exception as error:
            cause, reason = error, _reason(error)
    if cached:
        return cached
    at = f" at revision {revision}" if revision else ""
    raise UserError(f"the {kind} {hub_id}{at} can't be had from the hub: {reason}.\n{remedy}") from cause


def _is_complete(snapshot: Path) -> bool:
    """Whether the cache lists all that belongs to a snapshot, in which case the hub's client has compared the two.

    It doesn't where single files were asked for or an old client filled the cache; then the rest may be missing.
    """
    return (snapshot.parents[1] / "trees" / f"{snapshot.name}.json").is_file()


def _reason(error: Exception) -> str:
    """Why the hub's client couldn't download; it wraps most causes in another exception."""
    cause = error.__cause__ if type(error).__name__ == "LocalEntryNotFoundError" else None
    told = cause or error
    kind = type(told).__name__
    if kind == "RevisionNotFoundError":
        return "it has no such revision"
    if kind == "GatedRepoError":
        return "its terms must be accepted on its page, and `hf auth login` done here"
    if kind == "RepositoryNotFoundError":
        return "there is no such repository, or it is private"
    return f"{kind}: {first_line(told)}"


@lru_cache(maxsize=8)
def _is_reachable(address: str) -> bool:
    """Whether there is a network, known in seconds; the hub's client would go on trying for half a minute."""
    url = urlsplit(address)
    proxies = {} if proxy_bypass(url.hostname or "") else getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy:
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
