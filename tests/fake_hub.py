"""A fake of the Hugging Face hub over real HTTP, for huggingface_hub and datasets to push a data set to and to load it from.

It has repositories with branches of commits, accepts large files by the LFS protocol and refuses what the hub refuses.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "Ab1" * 12
USER = "jo"


@dataclass
class Repo:
    private: bool
    branches: dict = field(
        default_factory=lambda: {"main": [Commit("Initial commit", {".gitattributes": b"*.parquet lfs\n"})]}
    )


@dataclass
class Commit:
    message: str
    files: dict

    @property
    def oid(self):
        hashes = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in self.files.items())
        return hashlib.sha1(json.dumps([self.message, hashes]).encode()).hexdigest()


@dataclass
class ReceivedRequest:
    method: str
    path: str
    headers: dict
    body: bytes


class Hub:
    """The repositories of the hub, the requests it received (`asked`) and the faults it will produce."""

    def __init__(self):
        self.repos, self.large, self.asked, self.faults, self.address = {}, {}, [], [], ""
        self.warnings = []
        """Warnings with which it answers a card's metadata."""

    def fail(self, method, path, *answers):
        """Answer the next requests to a path (a regular expression) with these statuses; "drop" ends the connection."""
        self.faults.append((method, re.compile(path), list(answers)))

    def head(self, repo, branch="main"):
        return self.repos[repo].branches[branch][-1]

    def fault(self, method, path):
        for wanted, pattern, answers in self.faults:
            if answers and wanted == method and pattern.search(path):
                return answers.pop(0)
        return None


class Refusal(Exception):
    def __init__(self, status, message, code=None):
        self.status, self.message, self.code = status, message, code


@contextmanager
def serving():
    """Serve a hub on a free port of this machine."""
    hub = Hub()

    class Bound(Handler):
        pass

    Bound.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        self.hub.asked.append(ReceivedRequest(self.command, self.path, dict(self.headers), body))
        fault = self.hub.fault(self.command, path)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        try:
            if fault is not None:
                raise Refusal(fault, f"made to fail with {fault}")
            for method, pattern, act in ROUTES:
                if (match := re.fullmatch(pattern, path)) and self.command in method:
                    return act(self, *match.groups(), body=body, query=query)
            raise Refusal(404, f"the fake hub does not support {self.command} {path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self.send(refusal.status, {"error": refusal.message}, headers)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def send(self, status, value=None, headers=()):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, header in dict(headers).items():
            self.send_header(name, header)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def user(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Invalid credentials in Authorization header")
        return USER

    def repo(self, name, writes=False):
        user = self.user()
        if name not in self.hub.repos:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if writes and not name.startswith(f"{user}/"):
            raise Refusal(403, "You don't have the rights to write here")
        return self.hub.repos[name]

    def commits(self, name, revision, writes=False):
        branches = self.repo(name, writes).branches
        for branch in branches.values():
            for at, commit in enumerate(branch):
                if commit.oid == revision:
                    return branch[: at + 1]
        if revision not in branches:
            raise Refusal(404, "Invalid rev id", "RevisionNotFound")
        return branches[revision]

    # ---------------------------------------------------------------------------------------------------- routes

    def whoami(self, body, query):
        self.send(200, {"type": "user", "name": self.user(), "orgs": []})

    def create(self, body, query):
        request = json.loads(body)
        name = f"{request.get('organization') or self.user()}/{request['name']}"
        assert request["type"] == "dataset"
        if not name.startswith(f"{self.user()}/"):
            raise Refusal(403, "You don't have the rights to create a dataset under this namespace")
        if name in self.hub.repos:
            self.send(
                409, {"error": "You already created this dataset repo", "url": f"{self.hub.address}/datasets/{name}"}
            )
        else:
            self.hub.repos[name] = Repo(
                private=request.get("visibility") == "private" or request.get("private") is True
            )
            self.send(200, {"url": f"{self.hub.address}/datasets/{name}"})

    def info(self, name, revision, body, query):
        head = self.commits(name, revision or "main")[-1]
        private = self.repo(name).private
        files = [{"rfilename": path} for path in sorted(head.files)]
        self.send(
            200,
            {
                "id": name,
                "sha": head.oid,
                "private": private,
                "siblings": files,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            },
        )

    def validate(self, body, query):
        self.user()
        content = json.loads(body)["content"]
        try:
            metadata = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)[1])
            assert isinstance(metadata["license"], str)
        except (yaml.YAMLError, TypeError, KeyError, AssertionError) as error:
            return self.send(400, {"errors": [{"message": str(error)}], "warnings": []})
        return self.send(200, {"errors": [], "warnings": [{"message": warning} for warning in self.hub.warnings]})

    def preupload(self, name, revision, body, query):
        present = self.commits(name, revision, writes=True)[-1].files
        answers = []
        for each in json.loads(body)["files"]:
            is_large = each["path"].endswith(".parquet")
            answers.append(
                {"path": each["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            )
            if (content := present.get(each["path"])) is not None:
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                answers[-1]["oid"] = hashlib.sha256(content).hexdigest() if is_large else blob
        self.send(200, {"files": answers})

    def batch(self, name, body, query):
        self.repo(name, writes=True)
        answers = []
        for each in json.loads(body)["objects"]:
            answers.append({"oid": each["oid"], "size": each["size"]})
            if each["oid"] not in self.hub.large:
                answers[-1]["actions"] = {"upload": {"href": f"{self.hub.address}/storage/{each['oid']}", "header": {}}}
        self.send(200, {"objects": answers, "transfer": "basic"})

    def store(self, oid, body, query):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not that of the sha256")
        self.hub.large[oid] = body
        self.send(200, {})

    def commit(self, name, revision, body, query):
        branch = self.commits(name, revision, writes=True)
        lines = [json.loads(line) for line in body.splitlines()]
        files, message = dict(branch[-1].files), None
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, f"unknown operation {line['key']}")
        branch.append(Commit(message, files))
        url = f"{self.hub.address}/datasets/{name}/commit/{branch[-1].oid}"
        self.send(200, {"success": True, "commitOid": branch[-1].oid, "commitUrl": url})

    def branch(self, name, branch, body, query):
        branches = self.repo(name, writes=True).branches
        if branch in branches:
            raise Refusal(409, "Reference already exists")
        branches[branch] = list(branches["main"])
        self.send(200, {})

    def tree(self, name, revision, folder, body, query):
        files = self.commits(name, revision)[-1].files
        self.send(200, [self.entry(path, content) for path, content in sorted(files.items())] if not folder else [])

    def paths(self, name, revision, body, query):
        files = self.commits(name, revision)[-1].files
        wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        self.send(200, [self.entry(path, files[path]) for path in wanted if path in files])

    def entry(self, path, content):
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def resolve(self, name, revision, path, body, query):
        head = self.commits(name, revision)[-1]
        if path not in head.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        content = head.files[path]
        etag = hashlib.sha1(content).hexdigest()
        self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": head.oid, "Accept-Ranges": "none"})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (("GET",), "/api/whoami-v2", Handler.whoami),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate),
    (("POST",), rf"/api/datasets/{NAME}/preupload/(.+)", Handler.preupload),
    (("POST",), rf"/api/datasets/{NAME}/commit/(.+)", Handler.commit),
    (("POST",), rf"/api/datasets/{NAME}/branch/(.+)", Handler.branch),
    (("POST",), rf"/api/datasets/{NAME}/paths-info/(.+)", Handler.paths),
    (("GET",), rf"/api/datasets/{NAME}/tree/([^/]+)/?(.*)", Handler.tree),
    (("GET",), rf"/api/datasets/{NAME}(?:/revision/(.+))?", Handler.info),
    (("POST",), rf"/datasets/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (("PUT",), r"/storage/([0-9a-f]{64})", Handler.store),
    (("GET", "HEAD"), rf"/datasets/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)
