"""What can go wrong between here and the Hub, each as a short message with the next step."""

import errno
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

from zoo.errors import FailedError, RequestError


class HubError(FailedError):
    """The Hub, the way to it or the cache failed; the message says what to do."""


@contextmanager
def explained(repo: str, revision: str | None, writing: bool = False) -> Iterator[None]:
    """Turn what the client raises into a short message with the next step."""
    try:
        yield
    except (RequestError, FailedError, KeyboardInterrupt):
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise RequestError(explain(error, repo, revision, writing)) from error
    except Exception as error:
        explanation = explain(error, repo, revision, writing)
        if explanation is None:
            raise
        raise HubError(explanation) from error


def explain(error: BaseException, repo: str, revision: str | None, writing: bool) -> str | None:
    """What went wrong and what to do; None if it is none of what the Hub, the way to it or a disk can do."""
    cause = error
    # "Not in the cache" and "error while uploading" hide why.
    while isinstance(cause, LocalEntryNotFoundError | RuntimeError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    endpoint, login = constants.ENDPOINT, "hf auth login"
    match cause:
        case OfflineModeIsEnabled():
            return (
                f"{repo} is not in the cache, and HF_HUB_OFFLINE=1 forbids to ask for it; pull it once with the "
                f"network: HF_HUB_OFFLINE=0 zoo pull hf-hub:{repo}"
            )
        case GatedRepoError():
            return f"{repo} is gated: ask for access at {endpoint}/{repo}, then {login}"
        case RepositoryNotFoundError():
            return (
                f"no repository {repo} on {endpoint}, or a private one; check the name, or {login} with a token that "
                "may read it"
            )
        case RevisionNotFoundError():
            return f"{repo} has no branch, tag or commit {revision!r}; its branches and tags: {_refs(repo)}"
        case EntryNotFoundError():
            return f"{repo} lacks a file at {revision or 'main'}: {_first_line(cause)}"
        case HFValidationError():
            return f"{repo!r} is no repository of the Hub: {_first_line(cause)}"
        case HfHubHTTPError():
            return _explain_status(cause.response.status_code, cause, repo, writing)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return f"no space left on the disk of the cache, {constants.HF_HUB_CACHE}; HF_HOME names another place"
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR):
            return f"the cache {constants.HF_HUB_CACHE} cannot be written; HF_HOME names another place"
    # Whichever of its HTTP libraries this client uses.
    if type(cause).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore") or isinstance(cause, ConnectionError):
        again = "push again, it goes on from there" if writing else "try again"
        return f"no connection to {endpoint}, or it broke off ({_first_line(cause)}); check the network and {again}"
    if isinstance(cause, LocalEntryNotFoundError):
        return f"{repo} is not in the cache and {endpoint} did not answer; check the network and try again"
    return None


def _explain_status(status: int, error: HfHubHTTPError, repo: str, writing: bool) -> str:
    source = "the environment variable HF_TOKEN" if os.environ.get("HF_TOKEN") else "hf auth login"
    match status:
        case 401 if huggingface_hub.get_token() is None:
            return f"{constants.ENDPOINT} wants to know who you are: hf auth login"
        case 401:
            return (
                f"{constants.ENDPOINT} refuses your token (of {source}), it is wrong or expired, even for public "
                "models: renew it with hf auth login, or unset HF_TOKEN and hf auth logout"
            )
        case 403 if writing:
            return (
                f"your token (of {source}) may not write to {repo}: it only reads, or the owner is not you; make one "
                f"with the right to write at {constants.ENDPOINT}/settings/tokens and hf auth login"
            )
        case 403:
            return f"you may not read {repo}: ask its owner at {constants.ENDPOINT}/{repo}"
        case 412:
            return f"somebody pushed to {repo} at the same time; push again"
        case 429:
            return f"{constants.ENDPOINT} has had too many requests from you; wait some minutes, or hf auth login"
        case _ if status >= 500:
            return f"{constants.ENDPOINT} fails ({status}); it is not your fault, try again later"
    return f"{constants.ENDPOINT} answers {status}: {_first_line(error)}"


def _refs(repo: str) -> str:
    try:
        refs = HfApi().list_repo_refs(repo)
    except Exception:  # it is only a hint
        return "unknown"
    return ", ".join(ref.name for ref in [*refs.branches, *refs.tags][:20])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
