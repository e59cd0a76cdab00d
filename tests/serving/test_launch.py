import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from live_server import free_port
from processes import runs, wait_until
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.serving.launch import fill_command, is_ready, launched_server

# A server whose child may ignore SIGTERM, like the workers of an inference server.
SERVER = """
import http.server, os, pathlib, subprocess, sys, time
port, folder, delay, page, child = int(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:6]
pids = [os.getpid()]
if child:
    worker = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    worker.stdout.readline()
    pids.append(worker.pid)
(folder / "pids").write_text(" ".join(map(str, pids)))
print("loading the model", flush=True)
time.sleep(delay)
if page == "none":
    sys.exit("out of memory")
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == page else 404)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@pytest.fixture
def server(tmp_path):
    """Command and base URL of a server that answers immediately."""
    return command(tmp_path)


def command(folder, *, delay=0.0, page="/health", child=""):
    port = free_port()
    words = [sys.executable, "-S", "-c", SERVER, str(port), str(folder), str(delay), page, child]
    return words, f"http://127.0.0.1:{port}/v1"


def pids(folder):
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def test_a_server_answers_inside_and_is_gone_with_its_children_outside(tmp_path):
    words, url = command(tmp_path, child=CHILD)
    with launched_server(words, url, grace=0.5) as process:
        assert is_ready(url)
        assert pids(tmp_path)[0] == process.pid
        assert [runs(pid) for pid in pids(tmp_path)] == [True, True]
    assert not is_ready(url)
    assert not any(runs(pid) for pid in pids(tmp_path))


def test_an_error_inside_ends_the_server(server, tmp_path):
    words, url = server
    with pytest.raises(ZeroDivisionError), launched_server(words, url, grace=0.5):
        1 / 0  # noqa: B018
    assert not any(runs(pid) for pid in pids(tmp_path))


def test_a_server_without_a_health_page_answers_by_its_models(tmp_path):
    words, url = command(tmp_path, page="/v1/models")
    with launched_server(words, url, grace=0.1):
        assert is_ready(url)


def test_a_server_that_dies_first_is_quoted_and_its_children_are_ended(tmp_path):
    words, url = command(tmp_path, page="none", child=CHILD)
    log = tmp_path / "logs" / "server.log"
    expected = r"(?s)ended with code 1 before http.* answered.*loading the model\nout of memory"
    with pytest.raises(InputError, match=expected), launched_server(words, url, grace=0.1, log=log):
        pass
    assert not any(runs(pid) for pid in pids(tmp_path))
    assert log.read_text() == "loading the model\nout of memory\n"


def test_a_log_is_appended_to_and_only_what_is_new_is_quoted(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("of an earlier run\n")
    words, url = command(tmp_path, page="none")
    with pytest.raises(InputError) as raised, launched_server(words, url, grace=0.1, log=log):
        pass
    assert "earlier" not in str(raised.value)
    assert log.read_text().startswith("of an earlier run\nloading")


def test_a_server_that_does_not_answer_in_time_is_ended(tmp_path):
    words, url = command(tmp_path, delay=30)
    expected = r"(?s)did not answer within 1 s of starting.*loading the model"
    with pytest.raises(InputError, match=expected), launched_server(words, url, timeout=1):
        pass
    assert not any(runs(pid) for pid in pids(tmp_path))


def test_a_port_where_another_server_answers_is_refused(server):
    words, url = server
    with launched_server(words, url):
        expected = r"answers before .* is started; allowed: a port that is free"
        with pytest.raises(InputError, match=expected), launched_server(words, url):
            pass
        assert is_ready(url)


def test_a_command_that_cannot_be_run_is_named():
    def launch(command):
        with launched_server(fill_command(command), "http://127.0.0.1:1/v1"):
            pass

    cases = [
        ("no-such-program --port 1", "server command 'no-such-program --port 1' cannot be started"),
        ("", "server command is empty"),
        ("vllm 'serve", "No closing quotation"),
    ]
    assert unrefused(launch, cases) == {}


def test_a_server_does_not_inherit_the_variables_of_accelerate_launch(server, tmp_path, monkeypatch):
    """Servers that read these variables would wait for the other processes of the run."""
    launched = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in {**launched, "CUDA_VISIBLE_DEVICES": "0"}.items():
        monkeypatch.setenv(name, value)
    words, url = server
    with launched_server(words, url, grace=0.1) as process:
        environment = Path(f"/proc/{process.pid}/environ").read_text(encoding="utf-8")
    seen = {entry.partition("=")[0] for entry in environment.split("\0")}
    assert not seen & set(launched)
    assert {"CUDA_VISIBLE_DEVICES", "PATH"} <= seen


def test_a_server_does_not_outlive_a_killed_process(tmp_path):
    words, url = command(tmp_path, child=CHILD)
    code = f"""
        import time
        from sgpo.serving.launch import launched_server
        with launched_server({words!r}, {url!r}, grace=0.5):
            print("up", flush=True)
            time.sleep(600)
        """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"up\n"
        assert all(runs(pid) for pid in pids(tmp_path))
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not any(runs(pid) for pid in pids(tmp_path)))


def test_fields_are_filled_in_as_whole_words():
    filled = fill_command("serve '{policy}' --port={port} --kwargs '{\"a\": {}}'", policy="/a b/{port}", port=8000)
    assert filled == ["serve", "/a b/{port}", "--port=8000", "--kwargs", '{"a": {}}']


def test_an_unknown_field_is_refused():
    with pytest.raises(InputError, match=r"has \{model\}; allowed: \{policy\}, \{port\}"):
        fill_command("serve {model}", policy="x", port=1)
