"""What can go wrong between here and the Hub, each as a short message with the next step."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from zoo.errors import FailedError, RequestError, first_line


class HubError(FailedError):
    """The Hub, the way to it or the cache failed; the message says what to do."""


@contextmanager
def explained(repo: str, revision: str | None, writing: bool = False) -> Iterator[None]:
    """Turn what the client raises into a short message with the next step.

    Args:
        repo, revision: what it is about; an empty text for the Hub as a whole.
        writing: whether it pushes.
    """
    try:
        yield
    except (RequestError, FailedError):
        raise
    except Exception as error:
        explanation = explain(error, repo, revision, writing)
        if explanation is None:
            raise
        cause = _cause(error)
        wrong = isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError)
        # The client's word for a card that the Hub refuses.
        wrong |= type(cause) is ValueError and writing
        raise (RequestError if wrong and not _is_stale_token(cause) else HubError)(explanation) from error


def reason(error: BaseException, repo: str, revision: str | None) -> str:
    """What went wrong while reading, as a part of another message."""
    return explain(error, repo, revision, writing=False) or first_line(error)


def explain(error: BaseException, repo: str, revision: str | None, writing: bool) -> str | None:
    """What went wrong and what to do; None if it is none of what the Hub, the way to it or a disk can do."""
    cause = _cause(error)
    endpoint = constants.ENDPOINT
    full = f"no space left on the disk of the cache, {constants.HF_HUB_CACHE}; HF_HOME names another place"
    again = "push again, it goes on from there" if writing else "try again"
    match cause:
        case OfflineModeIsEnabled() if writing or not repo:
            return "HF_HUB_OFFLINE=1 forbids to ask the Hub; unset it and try again"
        case OfflineModeIsEnabled():
            return (
                f"{repo} is not in the cache, and HF_HUB_OFFLINE=1 forbids to ask for it; pull it once with the "
                f"network: HF_HUB_OFFLINE=0 zoo pull hf-hub:{repo}"
            )
        case GatedRepoError():
            return f"{repo} is gated: ask for access at {endpoint}/{repo}, then hf auth login"
        case RepositoryNotFoundError() if _is_stale_token(cause):
            return _explain_status(401, cause, repo, writing)
        case RepositoryNotFoundError():
            return (
                f"no repository {repo} on {endpoint}, or a private one; check the name, or hf auth login with a token "
                "that may read it"
            )
        case RevisionNotFoundError():
            return f"{repo} has no branch, tag or commit {revision!r}; its branches and tags: {_refs(repo)}"
        case LocalEntryNotFoundError():
            return f"{repo} is not in the cache and {endpoint} did not answer; check the network and try again"
        case EntryNotFoundError():
            return f"{repo} lacks a file at {revision or 'main'}: {first_line(cause)}"
        case HFValidationError():
            return f"{repo!r} is no repository of the Hub: {first_line(cause)}"
        case HfHubHTTPError():
            return _explain_status(cause.response.status_code, cause, repo, writing)
        case json.JSONDecodeError():
            return f"{endpoint} answers with something that no Hub says; is there a proxy or a login page between?"
        case ValueError() if writing and type(cause) is ValueError:
            return f"the Hub refuses the card: {' '.join(str(cause).split())[:500]}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return full
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR):
            place = cause.filename or constants.HF_HUB_CACHE
            return f"{place} cannot be written; HF_HOME names another place for the cache"
    # Whichever of its HTTP libraries this client uses.
    if type(cause).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore") or isinstance(cause, ConnectionError):
        return f"no connection to {endpoint}, or it broke off ({first_line(cause)}); check the network and {again}"
    # Of the transfer by Xet, whose errors have no types, and of a file that came shorter than announced.
    if isinstance(cause, RuntimeError) or (isinstance(cause, OSError) and cause.errno is None):
        text = first_line(cause)
        if "no space left" in text.lower():
            return full
        return f"the transfer failed ({text[:300]}); {again}, and with HF_HUB_DISABLE_XET=1 if it fails again"
    return None


def _cause(error: BaseException) -> BaseException:
    """What is behind "not in the cache", "error while uploading" and "force download failed"."""
    while (
        isinstance(error, LocalEntryNotFoundError | RuntimeError | ValueError)
        and not isinstance(error, HfHubHTTPError)
        and isinstance(error.__cause__, Exception)
    ):
        error = error.__cause__
    return error


def _is_stale_token(error: BaseException) -> bool:
    """Whether a repository is said to be missing because of a token: who sends a good one is told 404."""
    known = isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)
    return known and error.response.status_code == 401 and huggingface_hub.get_token() is not None


def _explain_status(status: int, error: HfHubHTTPError, repo: str, writing: bool) -> str:
    endpoint = constants.ENDPOINT
    source = "the environment variable HF_TOKEN" if os.environ.get("HF_TOKEN") else "hf auth login"
    said = " ".join(str(getattr(error, "server_message", None) or "").split())[:300]
    said = f" (it says: {said})" if said else ""
    match status:
        case 401 if huggingface_hub.get_token() is None:
            return f"{endpoint} wants to know who you are: hf auth login"
        case 401:
            return (
                f"{endpoint} refuses your token (of {source}), it is wrong or expired, even for public "
                "models: renew it with hf auth login, or unset HF_TOKEN and hf auth logout"
            )
        case 403 if writing:
            return (
                f"{endpoint} does not let you write to {repo}{said}; if your token (of {source}) only reads, or the "
                f"owner is not you: make one with the right to write at {endpoint}/settings/tokens and hf auth login"
            )
        case 403:
            return f"you may not read {repo}{said}: ask its owner at {endpoint}/{repo}"
        case 412:
            return f"somebody pushed to {repo} at the same time; push again"
        case 429:
            return f"{endpoint} has had too many requests from you; wait some minutes, or hf auth login"
        case _ if status >= 500:
            return f"{endpoint} fails ({status}); it is not your fault, try again later"
    return f"{endpoint} answers {status}{said or f': {first_line(error)}'}"


def _refs(repo: str) -> str:
    try:
        refs = HfApi().list_repo_refs(repo)
    except Exception:  # it is only a hint
        return "unknown"
    return ", ".join(ref.name for ref in [*refs.branches, *refs.tags][:20])
