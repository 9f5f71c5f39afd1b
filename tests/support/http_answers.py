"""An HTTP server that answers as it is told, where no real one would."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Request(NamedTuple):
    """What it was asked."""

    target: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """What it answers; without a status, it hangs up instead."""

    status: int | None
    text: str = ""
    headers: Mapping[str, str] = {}


@dataclass
class Answers:
    """The answers that are still to be given; when there are no more, it is 204."""

    port: int
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0


@contextmanager
def answering(certificate: tuple[Path, Path] | None = None) -> Iterator[Answers]:
    """Run the server, with TLS if there is a certificate with its key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            told.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.requests.append(Request(self.path, dict(self.headers), body))
            answer = told.answers.pop(0) if told.answers else Answer(204)
            if answer.status is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.text.encode())))
            self.end_headers()
            self.wfile.write(answer.text.encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Not to the tests' output."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that refuses our certificate is no error of ours."""

    server = Server(("127.0.0.1", 0), Handler)
    told = Answers(server.server_address[1])
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
