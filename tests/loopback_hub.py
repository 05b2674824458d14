"""A Hub on this machine, for the unmodified ``huggingface_hub`` client: repositories, LFS, listing, faults.

It speaks what the client speaks over plain HTTP, without Xet. The API answers on 127.0.0.1, big files on another
origin, localhost, which refuses credentials as a content network does.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ruamel.yaml import YAML, YAMLError

LFS = ("*.safetensors", "*.bin", "*.png", "*.pt")
MULTIPART = 4 * 2**20


@dataclass(frozen=True)
class Blob:
    """One file's content."""

    data: bytes
    lfs: bool

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self):
        """git's name of what the repository holds: the file, or the pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        held = pointer.encode() if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    downloads: int = 0
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", "initial commit", {".gitattributes": Blob(b"", False)})

    def commit(self, branch, message, files):
        parent = self.branches.get(branch)
        commit = Commit(secrets.token_hex(20), parent, message, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def resolve(self, revision):
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def head(self):
        return self.commits[self.branches["main"]]


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" matches, so many times."""

    pattern: str
    kind: str | int
    times: int
    headers: dict[str, str]


class LoopbackHub:
    """The state of the Hub, and its two servers.

    Attributes:
        tokens: what each token stands for: (user, may write).
        requests: every request that came, as "METHOD /path".
    """

    def __init__(self, port=0, page=2):
        self.tokens = {"hf_writer": ("ada", True), "hf_reader": ("ada", False), "hf_other": ("bob", True)}
        self.page = page
        self.lock = threading.RLock()
        self.reset()
        self.api = _Server(("127.0.0.1", port), _Api, self)
        self.content = _Server(("127.0.0.1", 0), _Content, self)
        self.url = f"http://127.0.0.1:{self.api.server_port}"
        self.content_url = f"http://localhost:{self.content.server_port}"

    def reset(self):
        """Forget everything."""
        with self.lock:
            self.repos, self.objects, self.faults, self.requests, self.parts = {}, {}, [], [], {}

    def fault(self, pattern, kind, times=1, **headers):
        """Let requests fail: a status, or "cut" (in the middle), "drop" (before an answer), "flip" (a byte)."""
        self.faults.append(
            Fault(pattern, kind, times, {name.replace("_", "-"): text for name, text in headers.items()})
        )

    def repo(self, repo_id, **settings):
        """Make a repository, as a person does on the page."""
        self.repos[repo_id] = Repo(repo_id, **settings)
        return self.repos[repo_id]

    def put(self, repo_id, files, message="by hand", branch="main"):
        """Commit files, as a person does on the page."""
        repo = self.repos.get(repo_id) or self.repo(repo_id)
        blobs = {path: Blob(data, _is_lfs(path)) for path, data in files.items()}
        self.objects |= {blob.sha256: blob.data for blob in blobs.values() if blob.lfs}
        return repo.commit(branch, message, repo.commits[repo.branches[branch]].files | blobs).oid

    def start(self):
        for server in (self.api, self.content):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        for server in (self.api, self.content):
            server.shutdown()
            server.server_close()

    @contextmanager
    def down(self):
        """No such server, for a while."""
        self.faults.insert(0, Fault("*", "drop", 10**9, {}))
        try:
            yield
        finally:
            self.faults.pop(0)


def _is_lfs(path):
    return any(fnmatch(path, pattern) for pattern in LFS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, handler, hub):
        super().__init__(address, handler)
        self.hub = hub

    def handle_error(self, request, client_address):
        pass  # a client that went away


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, code=None, message=""):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    @property
    def hub(self):
        return self.server.hub

    def _serve(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._chunks()
        url = urlsplit(self.path)
        self.raw, self.query = url.path, parse_qs(url.query)
        line = f"{self.command} {unquote(self.raw)}"
        with self.hub.lock:
            self.hub.requests.append(line)
            self.broken = next((fault for fault in self.hub.faults if fnmatch(line, fault.pattern)), None)
            if self.broken:
                self.broken.times -= 1
                if not self.broken.times:
                    self.hub.faults.remove(self.broken)
        if self.broken and self.broken.kind == "drop":
            self.close_connection = True
            return
        if self.broken and isinstance(self.broken.kind, int):
            self._answer(self.broken.kind, b"<html>a fault</html>", self.broken.headers)
            return
        try:
            with self.hub.lock:
                self._route()
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message} if refused.message else {}
            headers |= {"X-Error-Code": refused.code} if refused.code else {}
            self._answer(refused.status, json.dumps({"error": refused.message}).encode(), headers)
        except BrokenPipeError:
            raise
        except Exception as error:
            # Not a 5xx, which the client would try again and again.
            self._answer(400, json.dumps({"error": f"bug in the loopback Hub: {error!r}"}).encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, value, status=200, **headers):
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | headers)

    def _answer(self, status, data=b"", headers=None):
        fault = self.broken.kind if self.broken else None
        headers = dict(headers or {})
        if fault == "flip" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.close_connection = True


class _Content(_Handler):
    """The other origin: big files by their hash, to read with ranges and to write in one piece or in parts."""

    def _route(self):
        if self.headers.get("Authorization"):
            raise _Refused(400, message="credentials sent to the content network")
        kind, name = self.raw.strip("/").split("/")[:2]
        if self.command == "PUT" and kind == "part":
            self.hub.parts[name] = self.hub.parts.get(name, {}) | {int(self.query["n"][0]): self.body}
            self._answer(200, headers={"ETag": hashlib.md5(self.body).hexdigest()})
        elif self.command == "PUT":
            self._store(name, self.body)
        elif self.command == "POST":
            wanted = [part["partNumber"] for part in json.loads(self.body)["parts"]]
            parts = self.hub.parts.pop(name)
            self._store(name, b"".join(parts[number] for number in wanted))
        elif name not in self.hub.objects:
            raise _Refused(404)
        else:
            self._read(self.hub.objects[name])

    def _store(self, name, data):
        if hashlib.sha256(data).hexdigest() != name:
            raise _Refused(400, message="not the announced content")
        self.hub.objects[name] = data
        self._json({})

    def _read(self, data):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, data)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        self._answer(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


class _Api(_Handler):
    """Repositories and their files."""

    ROUTES = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/repos/create", "create"),
        ("DELETE", r"/api/repos/delete", "delete"),
        ("GET", r"/api/models", "models"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/commits/(?P<revision>[^/]+)", "commits"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/.*)?", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<name>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<revision>[^/]+)", "tag"),
        ("DELETE", r"/api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<name>[^/]+)", "untag"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/verify", "verify"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def _route(self):
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, name in self.ROUTES:
            # On the raw path: a branch may hold an escaped slash.
            match = re.fullmatch(pattern, self.raw)
            if wanted == method and match:
                arguments = {key: unquote(text) for key, text in match.groupdict().items() if text is not None}
                getattr(self, f"_{name}")(**arguments)
                return
        raise _Refused(400, message=f"the loopback Hub does not know {self.command} {self.raw}")

    def _user(self):
        given = self.headers.get("Authorization")
        if given is None:
            return None, False
        known = self.hub.tokens.get(given.removeprefix("Bearer "))
        if known is None:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return known

    def _found(self, repo, write=False):
        user, may_write = self._user()
        found = self.hub.repos.get(repo)
        owner = repo.split("/")[0]
        if found is None or (found.private and user != owner):
            raise _Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and not (may_write and user == owner):
            raise _Refused(403 if user else 401, None, "Forbidden: you have no right to write here" if user else "")
        return found

    def _at(self, repo, revision):
        commit = repo.resolve(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _readable(self, repo):
        found, (user, _) = self._found(repo), self._user()
        if found.gated and user != repo.split("/")[0]:
            status = 403 if user else 401
            raise _Refused(status, "GatedRepo", f"Access to model {repo} is restricted. You must have access to it.")
        return found

    def _whoami(self):
        user, may_write = self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        role = "write" if may_write else "read"
        self._json({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def _validate(self):
        text = json.loads(self.body)["content"]
        errors = []
        try:
            YAML(typ="safe").load(text.split("---")[1] if text.startswith("---") else "")
        except YAMLError as error:
            errors.append({"message": str(error)})
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self):
        user, may_write = self._user()
        asked = json.loads(self.body)
        owner = asked.get("organization") or user
        repo = f"{owner}/{asked['name']}"
        if user is None or not may_write or owner != user:
            status = 403 if user else 401
            raise _Refused(status, None, f"You don't have the rights to create a model under the namespace {owner}")
        if repo in self.hub.repos:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409)
            return
        private = asked.get("visibility") == "private" or asked.get("private", False)
        self.hub.repo(repo, private=private)
        self._json({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})

    def _delete(self):
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or self._user()[0]}/{asked['name']}"
        self._found(repo, write=True)
        del self.hub.repos[repo]
        self._json({})

    def _models(self):
        user, _ = self._user()
        wanted = set(self.query.get("filter", [])) | set(self.query.get("tags", []))
        author, text = self.query.get("author", [None])[0], self.query.get("search", [""])[0]
        found = [
            repo
            for repo in self.hub.repos.values()
            if (not repo.private or user == repo.id.split("/")[0])
            and (author is None or repo.id.split("/")[0] == author)
            and text in repo.id
            and wanted <= set(self._tags(repo.head()))
        ]
        first = int(self.query.get("cursor", ["0"])[0])
        size = min(int(self.query.get("limit", ["1000"])[0]), self.hub.page)
        headers = {}
        if first + size < len(found):
            rest = "&".join(f"{k}={quote(v)}" for k, vs in self.query.items() for v in vs if k != "cursor")
            headers["Link"] = f'<{self.hub.url}/api/models?{rest}&cursor={first + size}>; rel="next"'
        self._json([self._about(repo, repo.head()) for repo in found[first : first + size]], **headers)

    def _info(self, repo, revision="main"):
        found = self._found(repo)
        self._json(self._about(found, self._at(found, revision)))

    def _about(self, repo, commit):
        card = self._card(commit)
        return {
            "_id": repo.id,
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.split("/")[0],
            "sha": commit.oid,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "downloads": repo.downloads,
            "likes": 0,
            "tags": self._tags(commit),
            "createdAt": _now(),
            "lastModified": _now(),
            "cardData": card,
            "siblings": [
                {"rfilename": path, "size": len(blob.data), "blobId": blob.oid} | _lfs(blob)
                for path, blob in commit.files.items()
            ],
        }

    def _card(self, commit):
        blob = commit.files.get("README.md")
        text = blob.data.decode() if blob else ""
        return (YAML(typ="safe").load(text.split("---")[1]) or {}) if text.startswith("---") else {}

    def _tags(self, commit):
        card = self._card(commit)
        named = [card[key] for key in ("library_name", "pipeline_tag") if key in card]
        return [*card.get("tags", []), *named, *(f"dataset:{name}" for name in card.get("datasets", []))]

    def _refs(self, repo):
        found = self._found(repo)
        listed = {
            kind: [{"name": name, "ref": f"refs/{at}/{name}", "targetCommit": oid} for name, oid in refs.items()]
            for kind, at, refs in (("branches", "heads", found.branches), ("tags", "tags", found.tags))
        }
        self._json(listed | {"converts": [], "pullRequests": []})

    def _commits(self, repo, revision):
        found = self._readable(repo)
        commit, listed = self._at(found, revision), []
        while commit:
            listed.append({"id": commit.oid, "title": commit.message, "message": "", "date": _now(), "authors": []})
            commit = found.commits.get(commit.parent)
        self._json(listed)

    def _tree(self, repo, revision):
        files = self._at(self._readable(repo), revision).files
        self._json([_entry(path, blob) for path, blob in files.items()])

    def _paths(self, repo, revision):
        files = self._at(self._readable(repo), revision).files
        wanted = parse_qs(self.body.decode()).get("paths", [])
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = json.loads(self.body)["paths"]
        self._json([_entry(path, files[path]) for path in wanted if path in files])

    def _preupload(self, repo, revision):
        found = self._found(repo, write=True)
        files = self._at(found, revision).files
        answers = []
        for file in json.loads(self.body)["files"]:
            path, known = file["path"], files.get(file["path"])
            answer = {"path": path, "uploadMode": "lfs" if _is_lfs(path) else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": known.oid} if known and not known.lfs else {}))
        self._json({"files": answers})

    def _lfs(self, repo):
        self._found(repo, write=True)
        asked = json.loads(self.body)
        objects, transfer = [], "basic"
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size, "authenticated": True}
            if oid not in self.hub.objects:
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/objects/verify", "header": {}}
                upload = {"href": f"{self.hub.content_url}/whole/{oid}"}
                if size > MULTIPART and "multipart" in asked.get("transfers", []):
                    transfer = "multipart"
                    parts = range(1, -(-size // MULTIPART) + 1)
                    urls = {f"{n:05d}": f"{self.hub.content_url}/part/{oid}?n={n}" for n in parts}
                    upload["header"] = {"chunk_size": str(MULTIPART)} | urls
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self._json({"transfer": transfer, "objects": objects})

    def _verify(self, repo):
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(400, message="not uploaded")
        self._json({})

    def _commit(self, repo, revision):
        found = self._found(repo, write=True)
        before = self._at(found, revision)
        files, message = dict(before.files), ""
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            match entry["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit") not in (None, before.oid):
                        raise _Refused(412, message="A commit has happened since. Please refresh and try again.")
                case "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise _Refused(400, message=f"{value['path']} was not uploaded")
                    files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
                case "deletedFile":
                    files.pop(value["path"], None)
        commit = found.commit(revision, message, files)
        url = f"{self.hub.url}/{repo}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _branch(self, repo, name):
        found = self._found(repo, write=True)
        if name in found.branches:
            raise _Refused(409, message=f"Branch {name} already exists")
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        found.branches[name] = self._at(found, start).oid
        self._json({})

    def _tag(self, repo, revision):
        found = self._found(repo, write=True)
        name = json.loads(self.body)["tag"]
        if name in found.tags:
            raise _Refused(409, message=f"Tag {name} already exists")
        found.tags[name] = self._at(found, revision).oid
        self._json({})

    def _untag(self, repo, name):
        del self._found(repo, write=True).tags[name]
        self._json({})

    def _resolve(self, repo, revision, path):
        found = self._readable(repo)
        commit = self._at(found, revision)
        if path not in commit.files:
            # The client wants to know the commit that lacks the file.
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid})
            return
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if not blob.lfs:
            self._answer(200, blob.data, headers)
            return
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        self._answer(302, headers=headers | {"Location": f"{self.hub.content_url}/whole/{blob.sha256}"})


def _entry(path, blob):
    return {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.data)} | _lfs(blob)


def _lfs(blob):
    if not blob.lfs:
        return {}
    return {"lfs": {"oid": blob.sha256, "sha256": blob.sha256, "size": len(blob.data), "pointerSize": 130}}


def _now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
