"""A Hub of our own on 127.0.0.1: enough of the Hub's API to create, upload, download and break repositories.

Everything lies in memory and is addressed by content: a commit is a table of paths, each with the sha256 of its bytes.
Large files go through LFS, on another host name (`localhost`), as the Hub's do: clients do not follow redirects to
another host when they ask for a file's metadata. Not emulated: xet, gating, quotas, multi-part uploads.

    with LoopbackHub() as hub:
        HfApi(hub.url, token=WRITER).create_repo("org/saha")
        hub.fail["POST .*/commit/"] = Fault(403)  # every commit, until it is taken away
        hub.fail["PUT /_lfs/"] = Fault(DROP, times=1)  # the connection breaks in the middle of one upload
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import yaml
from hub.hub_http import DROP, Answer, Fault, Refusal, Request, Server, answer, partial

__all__ = ["DROP", "READER", "VISITOR", "WRITER", "Fault", "LoopbackHub"]

WRITER, VISITOR, READER = "hf_writer", "hf_visitor", "hf_reader"
"""Tokens: of a member of every organisation, of somebody in none, who may open pull requests on what they can read,
and one that only reads. No other token is valid."""

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
LFS_SUFFIXES = (".safetensors", ".bin", ".npz", ".parquet", ".png", ".jpg")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
KINDS = r"(?P<kind>models|datasets|spaces)"
NAME = r"(?P<name>[\w.-]+/[\w.-]+)"


@dataclass(frozen=True)
class Entry:
    """A file of a commit."""

    sha256: str
    lfs: bool


@dataclass
class Commit:
    message: str
    parent: str | None
    files: dict[str, Entry]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str:
        """The commit behind a branch, a tag, or a hash of at least seven digits."""
        named = self.branches | self.tags
        found = [named[revision]] if revision in named else []
        found += [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if not found:
            raise Refusal(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return found[0]

    def add(self, branch: str, message: str, files: dict[str, Entry], parent: str | None) -> str:
        listing = sorted((path, entry.sha256) for path, entry in files.items())
        sha = hashlib.sha1(json.dumps([self.kind, self.name, parent, message, listing]).encode()).hexdigest()
        self.commits[sha] = Commit(message, parent, files)
        self.branches[branch] = sha
        return sha


ROUTES: list[tuple[re.Pattern[str], Callable[..., Answer]]] = []


def route(pattern: str) -> Callable[..., Any]:
    """Answer requests whose ``METHOD /path`` matches the pattern with a function of hub and request."""

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((re.compile(pattern), function))
        return function

    return register


class LoopbackHub(Server):
    """The Hub. ``mode`` is how large files are uploaded, "lfs" or "regular"."""

    routes, tokens = ROUTES, (WRITER, VISITOR, READER)

    def __init__(self, mode: str = "lfs") -> None:
        super().__init__()
        self.mode = mode
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The content of a repository at a revision."""
        repo = self.repos[kind, name]
        return {path: self.blobs[e.sha256] for path, e in repo.commits[repo.resolve(revision)].files.items()}

    def head(self, name: str, kind: str = "models") -> str:
        """The newest commit on main."""
        return self.repos[kind, name].branches["main"]

    def store(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        self.blobs[sha] = content
        return sha

    def repo(self, request: Request, *, write: bool = False, propose: bool = False) -> Repo:
        """The repository that a request names, if its sender may read it, write to it, or open a pull request."""
        repo = self.repos.get(((request["kind"] or "models").strip("/"), request["name"]))
        if request.token is None and (write or propose or repo is None or repo.private):
            raise Refusal(401, "Invalid username or password.", code=None if write and repo else "RepoNotFound")
        if repo is None or (repo.private and request.token != WRITER):
            raise Refusal(404, "Repository not found", code="RepoNotFound")
        if (write and request.token != WRITER) or (propose and request.token == READER):
            raise Refusal(403, f"You don't have the required permissions to write to {repo.name}")
        return repo


@route("GET /api/whoami-v2")
def whoami(hub: LoopbackHub, request: Request) -> Answer:
    if request.token is None:
        raise Refusal(401, "Invalid username or password.")
    name, role = request.token.removeprefix("hf_"), "read" if request.token == READER else "write"
    orgs = [{"name": name, "roleInOrg": "write"} for name in ("org", "lab")] if request.token == WRITER else []
    return answer({"type": "user", "name": name, "orgs": orgs, "auth": {"accessToken": {"role": role}}})


@route("POST /api/repos/create")
def create(hub: LoopbackHub, request: Request) -> Answer:
    wanted = request.json
    owner = wanted.get("organization") or "writer"
    kind, name = wanted.get("type", "model") + "s", f"{owner}/{wanted['name']}"
    if request.token is None:
        raise Refusal(401, "Invalid username or password.")
    if request.token != WRITER:
        raise Refusal(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
    url = f"{hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
    if (kind, name) in hub.repos:
        raise Refusal(409, f"You already created this {kind[:-1]} repo", url=url)
    repo = hub.repos[kind, name] = Repo(kind, name, wanted.get("visibility") == "private", wanted.get("sdk"))
    repo.add("main", "initial commit", {".gitattributes": Entry(hub.store(ATTRIBUTES), lfs=False)}, None)
    return answer({"url": url, "name": name, "id": name, "private": repo.private})


@route("POST /api/validate-yaml")
def validate_yaml(hub: LoopbackHub, request: Request) -> Answer:
    errors, warnings = problems(request.json["content"], request.json.get("repoType", "model"))
    lists = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return answer(lists, 400 if errors else 200)


def problems(card: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the front matter of a card, by the rules that matter to what we write."""
    front = re.match(r"---\r?\n(.*?)\r?\n---\s", card, flags=re.DOTALL)
    if front is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(front[1])
    except yaml.YAMLError as error:
        return [str(error)], []
    if not isinstance(data, dict):
        return ["YAML metadata is no mapping"], []
    errors = [f'"{key}" must be a string' for key in ("license", "title", "library_name") if not _is(data, key, str)]
    errors += [f'"{key}" must be an array' for key in ("tags", "models") if not _is(data, key, list)]
    bases = data.get("base_model") or []
    for base in [bases] if isinstance(bases, str) else bases:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(base)):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    if kind == "space":
        errors += [f'"{key}" must be one of {COLOURS}' for key in ("colorFrom", "colorTo") if data[key] not in COLOURS]
        errors += [] if data.get("sdk") in ("gradio", "docker", "static") else ['"sdk" must be one of gradio, …']
        too_long = len(data.get("short_description", "")) > 60
        errors += ['"short_description" length must be at most 60 characters long'] if too_long else []
    return errors, []


def _is(data: dict[str, Any], key: str, kind: type) -> bool:
    return data.get(key) is None or isinstance(data[key], kind)


@route(f"GET /api/{KINDS}/{NAME}(/revision/(?P<revision>[^/]+))?")
def info(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request)
    sha = repo.resolve(request["revision"] or "main")
    siblings = [{"rfilename": path} for path in repo.commits[sha].files]
    about = {"private": repo.private, "disabled": False, "gated": False, "downloads": 0, "likes": 0, "tags": []}
    about |= {"sdk": repo.sdk} if repo.sdk else {}
    return answer({"id": repo.name, "author": repo.name.split("/")[0], "sha": sha, "siblings": siblings, **about})


@route(f"GET /api/{KINDS}/{NAME}/auth-check(?P<write>/write)?")
def auth_check(hub: LoopbackHub, request: Request) -> Answer:
    hub.repo(request, write=bool(request["write"]))
    return answer({})


@route(f"GET /api/{KINDS}/{NAME}/refs")
def refs(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request)
    tables: dict[str, list[dict[str, str]]] = {"branches": [], "pullRequests": [], "tags": [], "converts": []}
    for name, sha in repo.branches.items():
        pull_request = name.startswith("refs/pr/")
        ref = {"name": name, "ref": name if pull_request else f"refs/heads/{name}", "targetCommit": sha}
        tables["pullRequests" if pull_request else "branches"].append(ref)
    tables["tags"] += [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in repo.tags.items()]
    return answer(tables)


@route(f"POST /api/{KINDS}/{NAME}/(?P<what>branch|tag)/(?P<revision>[^/]+)")
def add_ref(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request, write=True)
    if request["what"] == "tag":
        table, name, target = repo.tags, request.json["tag"], request["revision"]
    else:
        table, name, target = repo.branches, request["revision"], request.json.get("startingPoint") or "main"
    if name in table:
        raise Refusal(409, f"Reference already exists: {name}")
    table[name] = repo.resolve(target)
    return answer({})


@route(f"GET /api/{KINDS}/{NAME}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?")
def tree(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request)
    folder = request["path"] and request["path"].rstrip("/") + "/"
    files = repo.commits[repo.resolve(request["revision"])].files
    found = {path: entry for path, entry in files.items() if path.startswith(folder)}
    if folder and not found:
        raise Refusal(404, f"{request['path']} does not exist", code="EntryNotFound")
    parents = {path[: match.start()] for path in found for match in re.finditer("/", path)}
    entries = [_folder(path) for path in parents if path.startswith(folder)]
    entries += [_file(hub, path, entry) for path, entry in found.items()]
    if request.query.get("recursive", ["false"])[0].lower() != "true":
        entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(folder)]
    return answer(sorted(entries, key=lambda entry: entry["path"]))


@route(f"POST /api/{KINDS}/{NAME}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request)
    files = repo.commits[repo.resolve(request["revision"])].files
    paths = parse_qs(request.body.decode()).get("paths", [])
    entries = [_file(hub, path, files[path]) for path in paths if path in files]
    return answer(entries + [_folder(path) for path in paths if any(f.startswith(path + "/") for f in files)])


def _file(hub: LoopbackHub, path: str, entry: Entry) -> dict[str, Any]:
    size = len(hub.blobs[entry.sha256])
    lfs = {"lfs": {"oid": entry.sha256, "size": size, "pointerSize": 134}} if entry.lfs else {}
    return {"type": "file", "path": path, "size": size, "oid": git_hash(hub.blobs[entry.sha256]), **lfs}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@route(f"POST /api/{KINDS}/{NAME}/preupload/(?P<revision>[^/]+)")
def preupload(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request, write="create_pr" not in request.query, propose=True)
    files = repo.commits[repo.resolve(request["revision"])].files
    modes = []
    for path in (file["path"] for file in request.json["files"]):
        lfs = hub.mode == "lfs" and path.endswith(LFS_SUFFIXES)
        known = files.get(path)
        oid = known and (known.sha256 if known.lfs else git_hash(hub.blobs[known.sha256]))
        modes.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid})
    return answer({"files": modes})


@route(rf"POST /(?P<kind>datasets/|spaces/)?{NAME}\.git/info/lfs/objects/batch")
def lfs_batch(hub: LoopbackHub, request: Request) -> Answer:
    hub.repo(request, propose=True)
    objects = []
    for wanted in request.json["objects"]:
        actions = {
            "upload": {"href": f"http://localhost:{hub.port}/_lfs/{wanted['oid']}"},
            "verify": {"href": f"{hub.url}/_lfs/verify"},
        }
        objects.append(wanted if wanted["oid"] in hub.blobs else {**wanted, "actions": actions})
    return answer({"transfer": "basic", "objects": objects})


@route(r"PUT /_lfs/(?P<oid>\w+)")
def lfs_put(hub: LoopbackHub, request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request["oid"]:
        raise Refusal(400, "The content does not have this sha256")
    hub.store(request.body)
    return Answer()


@route("POST /_lfs/verify")
def lfs_verify(hub: LoopbackHub, request: Request) -> Answer:
    if len(hub.blobs.get(request.json["oid"], b"")) != request.json["size"]:
        raise Refusal(404, "The object was not uploaded")
    return answer({})


@route(f"POST /api/{KINDS}/{NAME}/commit/(?P<revision>[^/]+)")
def commit(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request, write="create_pr" not in request.query, propose=True)
    branch = request["revision"]
    if branch not in repo.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", code="RevisionNotFound")
    parent = repo.branches[branch]
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit", parent) != parent:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[parent].files)
    for line in lines:
        change(hub, files, line["key"], line["value"])
    if "README.md" in files:
        errors, _ = problems(hub.blobs[files["README.md"].sha256].decode(), repo.kind[:-1])
        if errors:
            raise Refusal(400, f"Invalid metadata in README.md: {errors}")
    result: dict[str, Any] = {"success": True}
    if "create_pr" in request.query:
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        branch = f"refs/pr/{number}"
        result["pullRequestUrl"] = f"{hub.url}/{repo.name}/discussions/{number}"
    sha = repo.add(branch, header["summary"], files, parent)
    return answer(result | {"commitOid": sha, "commitUrl": f"{hub.url}/{repo.name}/commit/{sha}"})


def change(hub: LoopbackHub, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
    """Apply one line of a commit to a table of files."""
    if key == "file":
        files[value["path"]] = Entry(hub.store(base64.b64decode(value["content"])), lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in hub.blobs:
            raise Refusal(400, f"{value['path']}: the LFS object was not uploaded")
        files[value["path"]] = Entry(value["oid"], lfs=True)
    elif key == "deletedFile":
        if files.pop(value["path"], None) is None:
            raise Refusal(400, f"{value['path']} does not exist")
    elif key == "deletedFolder":
        for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
            del files[path]
    elif key != "header":
        raise Refusal(400, f"Unknown operation {key}")


@route(f"(GET|HEAD) /(?P<kind>datasets/|spaces/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: LoopbackHub, request: Request) -> Answer:
    repo = hub.repo(request)
    sha = repo.resolve(request["revision"])
    entry = repo.commits[sha].files.get(request["path"])
    if entry is None:
        refusal = Refusal(404, "Entry not found", code="EntryNotFound")
        refusal.answer.headers["X-Repo-Commit"] = sha
        raise refusal
    content = hub.blobs[entry.sha256]
    if not entry.lfs:
        return partial(content, request, {"X-Repo-Commit": sha, "ETag": f'"{git_hash(content)}"'})
    headers = {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": sha}
    return Answer(b"", 302, headers | {"Location": f"http://localhost:{hub.port}/_lfs/{entry.sha256}"})


@route(r"(GET|HEAD) /_lfs/(?P<oid>\w+)")
def lfs_get(hub: LoopbackHub, request: Request) -> Answer:
    if request["oid"] not in hub.blobs:
        raise Refusal(404, "No such object")
    return partial(hub.blobs[request["oid"]], request, {"ETag": f'"{request["oid"]}"'})
