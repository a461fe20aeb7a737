"""An HTTPS server of Python's own `ssl`, which ends the handshake of a client that it refuses."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from nginx import server_certificate


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"in")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    folder: Path
    authority: Path
    crl: Path

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        # A context of its own for each connection: the list is read as it is now.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        context.load_verify_locations(self.authority)
        context.load_verify_locations(self.crl)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        request.settimeout(10)
        with contextlib.suppress(OSError), context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)


@contextlib.contextmanager
def tls_server(folder: Path, authority: Path, crl: Path) -> Iterator[str]:
    """Run the server; yield its address."""
    folder.mkdir(exist_ok=True)
    server_certificate(folder)
    server = _Server(("127.0.0.1", 0), _Hello)
    server.folder, server.authority, server.crl = folder, authority, crl
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
