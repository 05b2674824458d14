"""Model folders on the Hugging Face Hub: push, pull and browse, through the Hub's own client and cache.

Nothing that comes from there is trusted: only JSON and safetensors are read, no code is run, and every file is held
against its hash.
"""

import hashlib
import json
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

import zoo
from zoo import folder as folders
from zoo.card import LIBRARY, described, is_edited, refreshed
from zoo.errors import RequestError
from zoo.files import write_text
from zoo.folder import WEIGHTS, FolderError
from zoo.hub_errors import HubError, explained, reason

__all__ = ["HubError", "Pulled", "Pushed", "browse", "cached", "is_reference", "parse", "pull", "push"]

PREFIX = "hf-hub:"
CONFIG, CARD = "config.json", "README.md"
NEEDED = (CONFIG, WEIGHTS)
FILES = (*NEEDED, CARD, "recipe.yaml", "samples.png", "metrics.jsonl")
"""What a model folder holds, and all that is ever sent or fetched."""

CONFIG_BYTES = HEADER_BYTES = 2**20
EXTRA_BYTES = 2**24

Listing = dict[str, tuple[int, str | None]]
"""The files of a commit: size, and the hash that the Hub names it by."""


@dataclass(frozen=True)
class Pulled:
    """A model folder in the Hub's cache: where from, at which commit, where it lies, what is in it."""

    repo: str
    revision: str
    folder: Path
    files: list[str]
    sha256: str


@dataclass(frozen=True)
class Pushed:
    """A model folder on the Hub: its commit, what it holds, its page, and the reference that loads it."""

    repo: str
    revision: str
    files: list[str]
    sha256: str
    url: str
    reference: str


def is_reference(text: str | Path) -> bool:
    """Whether it names a repository of the Hub.

    Example:
        >>> is_reference("hf-hub:ada/digits@v1"), is_reference("pixelcnn-mnist")
        (True, False)
    """
    return str(text).startswith(PREFIX)


def parse(reference: str) -> tuple[str, str | None]:
    """The repository and the revision (branch, tag or commit) of ``hf-hub:owner/repo[@revision]``.

    Raises:
        RequestError: it is none.

    Example:
        >>> parse("hf-hub:ada/digits@v1")
        ('ada/digits', 'v1')
    """
    match = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@(.+))?", reference)
    if match is None:
        raise RequestError(f"{reference!r} is no repository of the Hub; write hf-hub:owner/repo or ...@revision")
    return match[1], match[2]


def pull(reference: str, *, everything: bool = True, sha256: str | None = None) -> Pulled:
    """Fetch a model folder into the Hub's cache, all of it from one commit, and check every file.

    A commit that is in the cache is used without asking. A branch or tag is looked up first; where the Hub cannot be
    asked, the commit it stood for last time is used, with a warning that names it.

    Args:
        reference: ``hf-hub:owner/repo`` with an optional ``@branch``, ``@tag`` or ``@commit``.
        everything: the card, the recipe and the pictures too, not only what loading needs.
        sha256: what the weights must have, as an index says that pinned them.

    Raises:
        RequestError: no such repository or revision, or no right to read it.
        FolderError: it is no model folder of this zoo, or damaged even after a second download.
        HubError: network, server or cache failed.
    """
    repo, revision = parse(reference)
    wanted = FILES if everything else NEEDED
    with explained(repo, revision):
        commit, listed = _resolve(repo, revision, wanted)
        _check_listing(repo, commit, listed)
        home = _fetch(repo, commit, CONFIG, listed).parent
        # Before anything big is fetched: what would be built, and whether these weights can be its own.
        try:
            config = folders.read_config(home, weights=False)
        except FolderError:
            if (home / CONFIG).is_symlink() or listed is not None:
                raise
            # Of no known hash, where the cache has no links, and no JSON: it may be damaged.
            (home / CONFIG).unlink()
            config = folders.read_config(_fetch(repo, commit, CONFIG, listed).parent, weights=False)
        stated = config["weights"]["sha256"]
        if sha256 not in (None, stated):
            raise FolderError(
                f"{repo} at {commit[:12]} holds weights with sha256 {stated[:12]}..., expected {sha256[:12]}...; "
                "the repository is not what this zoo pinned, do not use it"
            )
        _check_size(repo, config, listed)
        _fetch(repo, commit, WEIGHTS, listed, stated)
        extras = [name for name in wanted if name not in NEEDED and _is_wanted(repo, commit, name, listed)]
        for name in extras:
            _fetch(repo, commit, name, listed)
        if listed is not None:
            # The cache shall remember what the name stood for, now that all of it is there.
            _download(repo, CONFIG, revision or "main")
    return Pulled(repo, commit, home, [*NEEDED, *extras], stated)


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Check a model folder and put it on the Hub in one commit; the repository is made if there is none.

    The card is refreshed: what people wrote into it, here or on the Hub, stays.

    Args:
        folder: as training writes it.
        repo: ``owner/repo``.
        private: make it a private one.
        revision: the branch, made if there is none; the main one by default.
        tag: of the new commit.
        message: of the commit.

    Raises:
        RequestError: a repository that holds something else, a tag that is taken, a card edited on both sides, or no
            right to write.
        FolderError: the folder is damaged.
        HubError: network or server failed; what was pushed before is as it was, and pushing again goes on.
    """
    home = Path(folder)
    folders.load(home)
    config = folders.read_config(home)
    parse(f"{PREFIX}{repo}")
    api = HfApi(library_name=LIBRARY, library_version=zoo.__version__)
    if tag is not None and not re.fullmatch(r"\w[\w./-]*", tag):
        raise RequestError(f"--tag is {tag!r}; write letters, digits and . _ - / only, such as v1.0")
    with explained(repo, revision, writing=True):
        url = str(api.create_repo(repo, private=private or None, exist_ok=True))
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo).tags}
        if revision in tags:
            raise RequestError(
                f"{repo} has a tag {revision!r}, which cannot be pushed to; name a branch with --revision"
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        there = api.model_info(repo, revision=revision, files_metadata=True)
        if private and not there.private:
            raise RequestError(f"{repo} exists and is public; make it private on its page, or name another repository")
        hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in there.siblings}
        _check_ours(repo, there.sha, hashes)
        remote = _read_card(_download(repo, CARD, there.sha)) if CARD in hashes else None
        contents: dict[str, Path | bytes] = {name: home / name for name in FILES if (home / name).is_file()}
        local = _read_card(home / CARD) if CARD in contents else None
        recipe = (home / "recipe.yaml").read_text("utf-8", "replace") if "recipe.yaml" in contents else ""
        text = refreshed(config, recipe, f"{PREFIX}{repo}", local, remote)
        contents[CARD] = text.encode()
        changed = [name for name, content in contents.items() if not _is(content, hashes.get(name))]
        # A picture or a recipe of older weights would pass for these weights'.
        stale = [name for name in FILES if name in hashes and name not in contents]
        target = tags.get(tag)
        if target is not None and (changed or stale or target != there.sha):
            raise RequestError(f"{repo} has a tag {tag!r} already, of commit {target[:12]}; name another with --tag")
        commit = there.sha
        if changed or stale:
            operations = [CommitOperationAdd(name, contents[name]) for name in changed]
            commit = api.create_commit(
                repo,
                [*operations, *(CommitOperationDelete(name) for name in stale)],
                commit_message=message or f"Push {config['name']} with {LIBRARY} {zoo.__version__}",
                revision=revision,
                # Should somebody push at the same time, their card is not lost.
                parent_commit=there.sha,
            ).oid
        if local is not None and is_edited(local):
            # What is edited from now on descends from what is on the Hub.
            write_text(home / CARD, text)
        if tag is not None and target is None:
            api.create_tag(repo, tag=tag, revision=commit)
    reference = f"{PREFIX}{repo}@{tag or commit}"
    return Pushed(repo, commit, sorted(contents), config["weights"]["sha256"], url, reference)


def browse(author: str | None = None) -> list[dict[str, Any]]:
    """The zoo's models on the Hub, by what their cards say: rows as ``zoo list`` has them.

    Raises:
        HubError: the Hub cannot be asked.
    """
    found: list[Any] = []
    # Not by the client's list_models, which a single malformed card of anybody's stops.
    address: str | None = f"{constants.ENDPOINT}/api/models"
    asked: dict[str, Any] | None = {"filter": LIBRARY, "cardData": True} | ({"author": author} if author else {})
    with explained("", None):
        while address:
            answer = get_session().get(address, params=asked, headers=build_hf_headers(library_name=LIBRARY))
            hf_raise_for_status(answer)
            found += answer.json()
            address, asked = answer.links.get("next", {}).get("url"), None
    return [
        _row(
            f"{PREFIX}{model['id']}", described({"model-index": model.get("model-index")} | _mapping(model["cardData"]))
        )
        for model in map(_mapping, found)
        if isinstance(model.get("id"), str)
    ]


def _mapping(value: Any) -> dict[str, Any]:
    return {"cardData": {}} | value if isinstance(value, dict) else {"cardData": {}}


def cached() -> list[dict[str, Any]]:
    """The zoo's models in the Hub's cache: rows as ``zoo list`` has them, a commit each."""
    rows = []
    with suppress(huggingface_hub.errors.CacheNotFound):
        for repo in sorted(huggingface_hub.scan_cache_dir().repos, key=lambda repo: repo.repo_id):
            if repo.repo_type != "model":
                continue
            for revision in sorted(repo.revisions, key=lambda revision: -revision.last_modified):
                with suppress(FolderError):
                    config = folders.read_config(Path(revision.snapshot_path))
                    rows.append(_row(f"{PREFIX}{repo.repo_id}@{revision.commit_hash}", config))
    return rows


def _row(name: str, about: dict[str, Any]) -> dict[str, Any]:
    known = {key: about.get(key) for key in ("architecture", "conditional", "dataset", "parameters")}
    return {"name": name, **known, "weights": "hub", "metrics": about.get("results") or []}


def _resolve(repo: str, revision: str | None, wanted: tuple[str, ...]) -> tuple[str, Listing | None]:
    """The commit, and what it holds, or None where the Hub was not asked."""
    if revision and re.fullmatch("[0-9a-f]{40}", revision) and _is_cached(repo, revision, wanted):
        return revision, None
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = {
            file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id) for file in info.siblings
        }
        return info.sha, files
    except HFValidationError:
        raise
    except Exception as error:
        # The client would fall back on its cache too, without a word.
        config = try_to_load_from_cache(repo, CONFIG, revision=revision or "main")
        commit = Path(config).parent.name if isinstance(config, str) else None
        if commit is None or not _is_cached(repo, commit, NEEDED):
            raise
        if not isinstance(error, OfflineModeIsEnabled):
            why = reason(error, repo, revision)
            warnings.warn(f"using commit {commit} of {repo} from the cache, which may be outdated: {why}", stacklevel=5)
        return commit, None


def _is_cached(repo: str, commit: str, names: tuple[str, ...]) -> bool:
    return all(isinstance(try_to_load_from_cache(repo, name, revision=commit), str) for name in names)


def _check_listing(repo: str, commit: str, listed: Listing | None) -> None:
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


def _check_size(repo: str, config: dict[str, Any], listed: Listing | None) -> None:
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


def _is_wanted(repo: str, commit: str, name: str, listed: Listing | None) -> bool:
    if listed is None:
        return _is_cached(repo, commit, (name,))
    size, _ = listed.get(name, (0, None))
    if size > EXTRA_BYTES:
        warnings.warn(f"{name} of {repo} has {size:,} bytes and is left out", stacklevel=5)
    return name in listed and size <= EXTRA_BYTES


def _fetch(
    repo: str, commit: str, name: str, listed: Listing | None, digest: str | None = None, again: bool = False
) -> Path:
    """The file in the cache, whole: the client itself looks at sizes only."""
    path = _download(repo, name, commit, force=again)
    # The Hub's hash of it; what the cache named it after, if it does name files so.
    known = [digest, listed[name][1] if listed else None, path.resolve().name]
    hashes = [text for text in known if text and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text)]
    if all(_is(path, text) for text in hashes):
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
        return _fetch(repo, commit, name, listed, digest, again=True)
    except FolderError:
        raise
    except Exception as error:
        raise FolderError(
            f"{path} is damaged (its hash is not the one announced), and it cannot be downloaded again: "
            f"{reason(error, repo, commit)}"
        ) from error


def _download(repo: str, name: str, revision: str, force: bool = False) -> Path:
    # A commit's files never change: what is there need not be asked for.
    known = None if force else try_to_load_from_cache(repo, name, revision=revision)
    if isinstance(known, str) and re.fullmatch("[0-9a-f]{40}", revision):
        return Path(known)
    about = {"library_name": LIBRARY, "library_version": zoo.__version__}
    return Path(hf_hub_download(repo, name, revision=revision, force_download=force, **about))


def _is(content: Path | bytes, expected: str | None) -> bool:
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


def _read_card(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text; save it as UTF-8 and push again") from None


def _check_ours(repo: str, commit: str, files: dict[str, Any]) -> None:
    """Refuse to push over what is not a model folder of the zoo."""
    if not files.keys() - {".gitattributes", CARD, "LICENSE"}:
        return
    config = {}
    if CONFIG in files:
        with suppress(ValueError, RecursionError):
            config = json.loads(_download(repo, CONFIG, commit).read_text("utf-8"))
    if not (isinstance(config, dict) and {"format", "architecture", "model_args"} <= config.keys()):
        raise RequestError(
            f"the name {repo} is taken: it holds {', '.join(sorted(files)[:10])} and no model of the zoo; "
            "name another repository"
        )
