"""Model folders on the Hugging Face Hub: push, pull and browse, through the Hub's own client and cache.

Nothing that comes from there is trusted: only JSON and safetensors are read, no code is run, and every file is held
against its hash.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

import zoo
from zoo import folder as folders
from zoo.card import ABOUT, LIBRARY, described, is_untouched, refreshed
from zoo.errors import RequestError
from zoo.files import write_text
from zoo.folder import WEIGHTS, FolderError
from zoo.hub_errors import HubError, explained
from zoo.hub_files import (
    CONFIG,
    NEEDED,
    check_listing,
    check_size,
    download,
    fetch,
    has_hash,
    is_wanted,
    listing,
    resolve,
)

__all__ = ["HubError", "Pulled", "Pushed", "browse", "cached", "is_reference", "parse", "pull", "push"]

PREFIX = "hf-hub:"
CARD = "README.md"
FILES = (*NEEDED, CARD, "recipe.yaml", "samples.png", "metrics.jsonl")
"""What a model folder holds, and all that is ever sent or fetched."""


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
        commit, listed = resolve(repo, revision, wanted)
        check_listing(repo, commit, listed)
        home = fetch(repo, commit, CONFIG, listed).parent
        # Before anything big is fetched: what would be built, and whether these weights can be its own.
        try:
            config = folders.read_config(home, weights=False)
        except FolderError:
            if (home / CONFIG).is_symlink() or listed is not None:
                raise
            # Of no known hash, where the cache has no links, and no JSON: it may be damaged.
            (home / CONFIG).unlink()
            config = folders.read_config(fetch(repo, commit, CONFIG, listed).parent, weights=False)
        stated = config["weights"]["sha256"]
        if sha256 not in (None, stated):
            raise FolderError(
                f"{repo} at {commit[:12]} holds weights with sha256 {stated[:12]}..., expected {sha256[:12]}...; "
                "the repository is not what this zoo pinned, do not use it"
            )
        check_size(repo, config, listed)
        fetch(repo, commit, WEIGHTS, listed, stated)
        extras = [name for name in wanted if name not in NEEDED and is_wanted(repo, commit, name, listed)]
        for name in extras:
            fetch(repo, commit, name, listed)
        if listed is not None:
            # The cache shall remember what the name stood for, now that all of it is there.
            download(repo, CONFIG, revision or "main")
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
        hashes = {name: digest for name, (_, digest) in listing(there).items()}
        _check_ours(repo, there.sha, hashes)
        remote = _read_card(download(repo, CARD, there.sha)) if CARD in hashes else None
        contents: dict[str, Path | bytes] = {name: home / name for name in FILES if (home / name).is_file()}
        local = _read_card(home / CARD) if CARD in contents else None
        recipe = (home / "recipe.yaml").read_text("utf-8", "replace") if "recipe.yaml" in contents else ""
        text = refreshed(config, recipe, f"{PREFIX}{repo}", local, remote)
        contents[CARD] = text.encode()
        changed = [name for name, content in contents.items() if not has_hash(content, hashes.get(name))]
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
        if local is not None and not is_untouched(local):
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
    rows = []
    for model in found:
        if isinstance(model, dict) and isinstance(model.get("id"), str):
            card = model.get("cardData")
            front = {"model-index": model.get("model-index")} | (card if isinstance(card, dict) else {})
            rows.append(_row(f"{PREFIX}{model['id']}", described(front)))
    return rows


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
    known = {key: about.get(key) for key in ABOUT}
    return {"name": name, **known, "weights": "hub", "metrics": about.get("results") or []}


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
            config = json.loads(download(repo, CONFIG, commit).read_text("utf-8"))
    if not (isinstance(config, dict) and {"format", "architecture", "model_args"} <= config.keys()):
        raise RequestError(
            f"the name {repo} is taken: it holds {', '.join(sorted(files)[:10])} and no model of the zoo; "
            "name another repository"
        )
