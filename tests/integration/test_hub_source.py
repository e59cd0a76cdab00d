"""UltraFeedback from the Hub: a stand-in for the Hub on this machine serves a small copy through its own addresses."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sgpo.preferences.split_files import check_split
from ultrafeedback import write_ultrafeedback

NAME = "argilla/ultrafeedback-binarized-preferences-cleaned"
COMMIT = "0" * 40


def listing(files, folder):
    """What the Hub says of a folder: its files, and the folders in it."""
    rows = {}
    for path, content in files.items():
        parent = path.rpartition("/")[0]
        if parent == folder:
            oid = hashlib.sha1(content).hexdigest()
            rows[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        elif not folder:
            rows[parent] = {"type": "directory", "path": parent, "oid": "1" * 40}
    return list(rows.values())


@contextmanager
def hub(root):
    """Serves the files under `root` as the dataset NAME; yields the endpoint."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    about = {"id": NAME, "sha": COMMIT, "private": False, "siblings": [{"rfilename": path} for path in files]}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            path = self.path.partition("?")[0]
            for head, answer in (
                (f"/api/datasets/{NAME}/tree/", lambda rest: json.dumps(listing(files, rest)).encode()),
                (f"/api/datasets/{NAME}/revision/", lambda rest: json.dumps(about).encode()),
                (f"/datasets/{NAME}/resolve/", files.get),
            ):
                if path.startswith(head):
                    return self.send(answer(path.removeprefix(head).partition("/")[2]))
            return self.send(b"" if path == "/" else None)

        do_HEAD = do_GET

        def send(self, body):
            self.send_response(200 if body is not None else 404)
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def split(endpoint, home, output):
    """The command in a process of its own, because the libraries read their environment once."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    sizes = ["--seeds", "2", "--pools", "8", "20", "--heldout", "5"]
    command = [sys.executable, "-m", "sgpo", "split", NAME, *sizes, "--output", str(output)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_ultrafeedback_comes_from_the_hub_and_once_only(tmp_path):
    with hub(write_ultrafeedback(tmp_path / "repository", 40)) as endpoint:
        first = split(endpoint, tmp_path / "home", tmp_path / "first")
        assert first.returncode == 0, first.stderr
        content = check_split(tmp_path / "first")
        assert content["sources"][0]["path"] == NAME and content["sources"][0]["rows"] == 40
    # The Hub is gone: what was fetched is in the cache, and what was not is refused without a wait.
    begin = time.monotonic()
    again = split(endpoint, tmp_path / "home", tmp_path / "again")
    seconds = time.monotonic() - begin
    assert again.returncode == 0, again.stderr
    assert check_split(tmp_path / "again")["files"] == content["files"]
    begin = time.monotonic()
    nothing = split(endpoint, tmp_path / "other", tmp_path / "nothing")
    assert nothing.returncode == 2
    assert f"{NAME!r} (Hugging Face Hub id" in nothing.stderr and "Traceback" not in nothing.stderr
    # Retries would take twenty seconds more.
    assert time.monotonic() - begin < seconds + 10
