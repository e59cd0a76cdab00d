"""The Hub is asked once, quickly, and only if a run needs it."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgpo.store.hub import is_hub_id, settle_hub_access

HUB_ID = "somebody/some-model"


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def offline_now() -> str | None:
    return os.environ.get("HF_HUB_OFFLINE")


@contextmanager
def endpoint(answer, monkeypatch):
    """A server that does one thing with every connection; yields the list of requests."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            answer(self)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked
        server.shutdown()


def test_local_paths_never_ask(online, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sft").mkdir()
    with endpoint(lambda handler: handler.send_error(404), online) as asked:
        names = [str(tmp_path), "./nowhere", "~/nowhere", "/nowhere/at/all", "models/sft", "a/b/c.jsonl", None, ""]
        assert settle_hub_access(names) is False
        assert asked == []
    assert offline_now() is None


@pytest.mark.parametrize("status", [200, 401, 404, 500])
def test_a_hub_that_answers_whatever_it_says_is_reachable(online, status):
    def answer(handler):
        handler.send_response(status)
        handler.end_headers()

    with endpoint(answer, online) as asked:
        assert settle_hub_access([HUB_ID, "somebody/else", None]) is False
        assert len(asked) == 1
    assert offline_now() is None


def test_nobody_at_the_endpoint_turns_offline_mode_on_at_once(online):
    online.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    assert settle_hub_access(["/local", HUB_ID]) is True
    assert time.monotonic() - started < 2
    assert offline_now() == "1"


def test_an_endpoint_that_takes_the_connection_and_says_nothing_costs_seconds(online):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        online.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert settle_hub_access([HUB_ID]) is True
        assert time.monotonic() - started < 6
    assert offline_now() == "1"


def test_an_endpoint_that_speaks_no_http_is_out_of_reach(online):
    def talk(handler):
        handler.wfile.write(b"220 mail.example ESMTP\r\n")

    with endpoint(talk, online):
        assert settle_hub_access([HUB_ID]) is True


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "file:///etc/hosts", "http://[half", "huggingface.co"])
def test_an_address_that_is_none_is_out_of_reach(online, address):
    online.setenv("HF_ENDPOINT", address)
    assert settle_hub_access([HUB_ID]) is True


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("on", True), ("True", True), ("0", False)])
def test_a_user_who_wants_no_network_is_not_asked_again(online, value, offline):
    online.setenv("HF_HUB_OFFLINE", value)
    with endpoint(lambda handler: handler.send_error(404), online) as asked:
        assert settle_hub_access([HUB_ID]) is offline
        assert len(asked) == (0 if offline else 1)
    assert offline_now() == value


def test_a_hub_id_is_a_name_with_at_most_one_slash_and_nothing_at_that_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "here").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    assert [name for name in ("name", "owner/name", "owner/name.v2-x") if not is_hub_id(name)] == []
    others = ["", ".", "./name", "../name", "/name", "~/name", "a/b/c", "owner/here", "owner", "file", Path("name")]
    assert [name for name in others if is_hub_id(name)] == []


@pytest.mark.parametrize(
    "words",
    [
        "eval ifeval --policy a/b --prompts c/d",
        "eval reward --policy answers.jsonl --baseline a/b --prompts c/d --function f:g",
        "eval preferences --policy a/b --pairs c/d",
        "study requests --model a/b --output o",
        "study real-model --model a/b --world w --output o --config c",
    ],
)
def test_whether_the_hub_answers_is_settled_before_its_library_is_imported(words, tmp_path):
    """That library reads HF_HUB_OFFLINE once, when it is imported; in this process it has been."""
    program, *rest = words.split()
    main = "from sgpo.cli.main import main" if program == "eval" else "from sgpo_research.command import main"
    code = f"""
import sys
import sgpo.store.hub as hub
def settle(names):
    sys.exit("imported: " + " ".join(sys.modules.keys() & {{"huggingface_hub", "datasets", "transformers"}}))
hub.settle_hub_access = settle
{main}
main({[program, *rest] if program == "eval" else rest})
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stderr.strip() == "imported:"
