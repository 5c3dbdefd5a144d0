"""Ask the Hugging Face hub. Requests have time limits, and each failure becomes one line that says what to do.

The hub's client, `datasets` and the HTTP library below them raise dozens of errors, nested in one another. The
innermost cause is what matters. No message contains the access token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

PATIENCE = 10.0  # seconds without a byte from the hub
COMMIT_PATIENCE = 300.0  # seconds: the hub needs a while for a commit of many files
COMMIT = re.compile(r"[0-9a-f]{40}")
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"

# The first of these errors that is among the causes decides.
REFUSALS = {
    "GatedRepoError": f"it is gated: accept its conditions on its page on the hub, then {LOG_IN}",
    "RevisionNotFoundError": "the hub has no such revision of it; give a branch, a tag or a whole commit hash",
    "RepositoryNotFoundError": f"the hub has no such repository, or it is private; check its name, or {LOG_IN}",
    "DatasetNotFoundError": f"the hub has no such repository, or it is private; check its name, or {LOG_IN}",
}
UNREACHABLE = {
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and the local cache (HF_HOME) does not have it, or not all of it; "
    "run once without HF_HUB_OFFLINE",
    "RemoteProtocolError": "the download broke off; run again",
    "TransportError": "the hub cannot be reached; check the network and HF_ENDPOINT",
    "ConnectionError": "the hub cannot be reached; check the network and HF_ENDPOINT",
    "TimeoutError": "the hub cannot be reached; check the network and HF_ENDPOINT",
    "LocalEntryNotFoundError": "the hub cannot be reached, and the local cache does not have it; check the network",
}


def limit_waiting() -> None:
    """Make every request of this process give up after PATIENCE, and a commit after COMMIT_PATIENCE.

    The hub's client sets no limit for most requests.
    """
    from huggingface_hub import get_session

    client = get_session()
    if _limit not in client.event_hooks["request"]:
        client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], _limit]}


def _limit(request: Any) -> None:
    given = request.extensions.get("timeout", {})
    patience = COMMIT_PATIENCE if "/commit/" in request.url.path else PATIENCE
    request.extensions["timeout"] = {
        step: given.get(step) or patience for step in ("connect", "read", "write", "pool")
    }


def explain(error: Exception, instead: str, otherwise: str) -> str:
    """An error of the hub in one line: what is wrong and what to do.

    Args:
        instead: what to do without the hub if it cannot be reached.
        otherwise: what to say about an error that has nothing to do with the hub.
    """
    causes = list(_causes(error))
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    # `datasets` can lose the cause, but its name ends the message: (OfflineModeIsEnabled).
    kinds.update(re.findall(r"\((\w+)\)$", str(error)))
    if "is a gated dataset" in str(error):
        kinds.add("GatedRepoError")
    for kind, advice in REFUSALS.items():
        if kind in kinds:
            return advice
    status = next(filter(None, map(_status, causes)), None)
    advice = _advice(status, kinds, instead) or otherwise
    text = " ".join(str(causes[-1]).split()) or "no more is known"
    return f"{advice} ({type(causes[-1]).__name__}: {_without_token(text)})"


def _advice(status: int | None, kinds: set[str], instead: str) -> str | None:
    """What to do about an HTTP status, or about a hub that cannot be reached; None for any other error."""
    if status in (401, 403):
        return f"the hub refuses it (HTTP {status}); the access token may lack the permission: {LOG_IN}"
    if status == 404:
        return "the hub has no such thing (HTTP 404); check the name and the revision"
    if status == 412:
        return "somebody else changed it on the hub meanwhile (HTTP 412); run again"
    if status is not None:
        return f"the hub fails (HTTP {status}); try again later, or {instead}"
    advised = next((advice for kind, advice in UNREACHABLE.items() if kind in kinds), None)
    return f"{advised}, or {instead}" if advised else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _without_token(text: str) -> str:
    """The text without the access token. An HTTP library prints the whole header if it is not well-formed."""
    from huggingface_hub import get_token

    token = get_token()
    text = text.replace(token, "***") if token else text
    return re.sub(r"Bearer [^'\"\s]+", "Bearer ***", text)
