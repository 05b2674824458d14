"""Files of a repository on the Hub, in the Hub's own cache: all of one commit, and each held against its hash."""

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

import zoo
from zoo import folder as folders
from zoo.card import LIBRARY
from zoo.folder import WEIGHTS, FolderError
from zoo.hub_errors import reason

CONFIG = "config.json"
NEEDED = (CONFIG, WEIGHTS)

CONFIG_BYTES = HEADER_BYTES = 2**20
EXTRA_BYTES = 2**24

Listing = dict[str, tuple[int, str | None]]
"""The files of a commit: size, and the hash that the Hub names it by."""


def resolve(repo: str, revision: str | None, wanted: tuple[str, ...]) -> tuple[str, Listing | None]:
    """The commit, and what it holds, or None where the Hub was not asked."""
    if revision and _is_commit(revision) and is_cached(repo, revision, wanted):
        return revision, None
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        return info.sha, listing(info)
    except HFValidationError:
        raise
    except Exception as error:
        # The client would fall back on its cache too, without a word.
        config = try_to_load_from_cache(repo, CONFIG, revision=revision or "main")
        commit = Path(config).parent.name if isinstance(config, str) else None
        if commit is None or not is_cached(repo, commit, NEEDED):
            raise
        if not isinstance(error, OfflineModeIsEnabled):
            why = reason(error, repo, revision)
            warnings.warn(f"using commit {commit} of {repo} from the cache, which may be outdated: {why}", stacklevel=5)
        return commit, None


def listing(info: ModelInfo) -> Listing:
    """The files of a commit, of which the Hub was asked with their metadata."""
    return {file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id) for file in info.siblings}


def is_cached(repo: str, commit: str, names: tuple[str, ...]) -> bool:
    """Whether all of these files are there."""
    return all(isinstance(try_to_load_from_cache(repo, name, revision=commit), str) for name in names)


def check_listing(repo: str, commit: str, listed: Listing | None) -> None:
    """Refuse what is no model folder, before anything is fetched."""
    if listed is None:
        return
    missing = [name for name in NEEDED if name not in listed]
    if missing:
        there = ", ".join(sorted(listed)[:10]) or "nothing"
        raise FolderError(
            f"{repo} at {commit[:12]} is no model folder of the zoo: {' and '.join(missing)} missing; it holds "
            f"{there}. Weights in other formats, pickles above all, are never opened; zoo push writes such a repository"
        )
    size, _ = listed[CONFIG]
    if size > CONFIG_BYTES:
        raise FolderError(f"{repo}: {CONFIG} has {size:,} bytes, more than any config of the zoo; refused")


def check_size(repo: str, config: dict[str, Any], listed: Listing | None) -> None:
    """Refuse weights that are not those of the model that the config describes, before they are fetched."""
    expected = sum(tensor.numel() * tensor.element_size() for tensor in folders.expected_state(config).values())
    if listed is None:
        return
    size, _ = listed[WEIGHTS]
    # What a safetensors file has beside the numbers: names and shapes, and a line of metadata.
    if not 0 <= size - expected <= HEADER_BYTES:
        raise FolderError(
            f"{repo}: {WEIGHTS} has {size:,} bytes, where the model of its {CONFIG} has {expected:,}; it has shapes of "
            "another model or is no safetensors file; not fetched"
        )


def is_wanted(repo: str, commit: str, name: str, listed: Listing | None) -> bool:
    """Whether a file that loading does not need is there, and no larger than such a file is."""
    if listed is None:
        return is_cached(repo, commit, (name,))
    size, _ = listed.get(name, (0, None))
    if size > EXTRA_BYTES:
        warnings.warn(f"{name} of {repo} has {size:,} bytes and is left out", stacklevel=5)
    return name in listed and size <= EXTRA_BYTES


def fetch(
    repo: str, commit: str, name: str, listed: Listing | None, digest: str | None = None, again: bool = False
) -> Path:
    """The file in the cache, whole: the client itself looks at sizes only."""
    path = download(repo, name, commit, force=again)
    # The Hub's hash of it; what the cache named it after, if it does name files so.
    known = {digest, listed[name][1] if listed else None, path.resolve().name}
    hashes = {text for text in known if text and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text)}
    if all(has_hash(path, text) for text in hashes):
        return path
    if again:
        raise FolderError(
            f"{repo}: {name} arrives damaged, twice now (its hash is not the one announced); try again later, or tell "
            "its author"
        )
    try:
        if not path.is_symlink():
            # Without links the client fetches the file anew, and leaves the old one in its place.
            path.unlink()
        return fetch(repo, commit, name, listed, digest, again=True)
    except FolderError:
        raise
    except Exception as error:
        raise FolderError(
            f"{path} is damaged (its hash is not the one announced), and it cannot be downloaded again: "
            f"{reason(error, repo, commit)}"
        ) from error


def download(repo: str, name: str, revision: str, force: bool = False) -> Path:
    """The file in the cache, unchecked."""
    # A commit's files never change: what is there need not be asked for.
    known = None if force else try_to_load_from_cache(repo, name, revision=revision)
    if isinstance(known, str) and _is_commit(revision):
        return Path(known)
    about = {"library_name": LIBRARY, "library_version": zoo.__version__}
    return Path(hf_hub_download(repo, name, revision=revision, force_download=force, **about))


def _is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def has_hash(content: Path | bytes, expected: str | None) -> bool:
    """Whether content has a hash as the Hub names files: sha256 of a big one, git's sha1 of a small one."""
    if expected is None:
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest() == expected
