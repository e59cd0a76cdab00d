"""A local HTTP server with faults that a real server does not produce on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """A reply.

    Attributes:
        body: the bytes after the headers; None closes the connection without a reply.
        status: HTTP status.
        headers: further ones.
        delay: seconds to wait first.
    """

    body: bytes | None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


def completion(text: object = "fine", *, reason: object = "stop", **further: object) -> Reply:
    """A chat completion of one choice; `further` are keys in addition to `choices`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return Reply(json.dumps({"choices": [choice], **further}).encode())


@dataclass
class Recorded:
    """A server that runs.

    Attributes:
        url: its base URL, which ends in /v1.
        asked: bodies of the requests, in order of arrival.
        headers: headers of the requests.
        times: when each arrived, on the monotonic clock.
        opens: how many requests were open when each arrived, itself included.
    """

    url: str
    asked: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    opens: list[int] = field(default_factory=list)


@contextmanager
def faulty(answer: Callable[[int, dict], Reply]) -> Iterator[Recorded]:
    """A server whose reply to the k-th request (from 0) with a body is `answer(k, body)`."""
    lock = threading.Lock()
    now_open = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal now_open
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(record.asked)
                record.asked.append(body)
                record.headers.append({name.lower(): value for name, value in self.headers.items()})
                record.times.append(time.monotonic())
                now_open += 1
                record.opens.append(now_open)
            try:
                self._send(answer(number, body))
            finally:
                with lock:
                    now_open -= 1

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            if reply.body is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # connections beyond it would wait a second to be made again

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is what some tests are about

    with Server(("127.0.0.1", 0), Handler) as server:
        record = Recorded(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield record
        finally:
            server.shutdown()
            thread.join()
