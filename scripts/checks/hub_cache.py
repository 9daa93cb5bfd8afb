"""Fetches a tiny model with huggingface_hub itself, from a hub on this machine, by every kind of revision, and asks
qzo for each of them offline: what huggingface_hub has in its cache, qzo must find.

    pip install huggingface_hub
    python scripts/checks/hub_cache.py target/release/qzo tests/fixtures/llama/base
"""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.parse

REVISIONS = ["main", "v1.0", "feature/long/name", "refs/pr/1", "refs/heads/x/y", "refs/convert/gguf"]


def commit(revision):
    """Of a revision; a commit is its own, and may be abbreviated."""
    for known in REVISIONS:
        whole = hashlib.sha1(known.encode()).hexdigest()
        if revision == known or len(revision) >= 7 and whole.startswith(revision):
            return whole
    return None


class Hub(http.server.BaseHTTPRequestHandler):
    files = {}

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path.strip("/")
        if path.startswith("api/"):
            kind, _, rest = path.removeprefix("api/models/org/tiny").strip("/").partition("/")
            revision = urllib.parse.unquote(rest.split("/")[0]) or "main"
            sha = commit(revision)
            if kind == "tree":
                found = [dict(type="file", path=name, size=len(data), oid=etag(data)) for name, data in self.files.items()]
            else:
                siblings = [dict(rfilename=name) for name in self.files]
                found = dict(id="org/tiny", modelId="org/tiny", sha=sha, siblings=siblings, private=False, tags=[])
            return self.answer(200 if sha else 404, json.dumps(found).encode(), {"Content-Type": "application/json"})
        revision, _, name = path.removeprefix("org/tiny/resolve/").partition("/")
        sha = commit(urllib.parse.unquote(revision))
        if sha is None or name not in self.files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound" if sha else "RevisionNotFound"})
        data = self.files[name]
        self.answer(200, data, {"ETag": f'"{etag(data)}"', "X-Repo-Commit": sha})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def etag(data):
    return hashlib.sha1(data).hexdigest()


def main():
    qzo, model = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    Hub.files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wrong = 0
    with tempfile.TemporaryDirectory() as home:
        variables = {**os.environ, "HOME": home, "HF_HOME": "~/$PLACE/hf", "PLACE": "cache"}
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
            variables.pop(name, None)
        asked = [*REVISIONS, *(commit(name) for name in REVISIONS), commit("v1.0")[:8]]
        for revision in asked:
            code = f"import huggingface_hub as h; h.snapshot_download('org/tiny', revision={revision!r})"
            online = {**variables, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
            subprocess.run([sys.executable, "-c", code], env=online, check=True, capture_output=True)
            offline = {**variables, "HF_HUB_OFFLINE": "1"}
            found = subprocess.run([qzo, "inspect", "--json", f"org/tiny@{revision}"], env=offline, capture_output=True)
            print(f"{'found' if found.returncode == 0 else 'MISSING':8} {revision}")
            wrong += found.returncode != 0
    sys.exit(f"{wrong} revisions are not found" if wrong else 0)


if __name__ == "__main__":
    main()
