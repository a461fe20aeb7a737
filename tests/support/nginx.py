"""A real nginx for tests: HTTPS on loopback for clients with a certificate, and gone afterwards."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from certificate_house import program
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from processes import Started, free_port, running


def server_certificate(folder: Path) -> None:
    """Write `server.crt`, signed by itself for 127.0.0.1, and `server.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(private)
    (folder / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


@dataclass
class Nginx:
    """One server, which can be stopped and started again."""

    folder: Path
    port: int
    authority: Path
    crl: Path | None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    process: Started | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    def lay(self) -> None:
        """Write its certificate and its configuration."""
        self.folder.mkdir(exist_ok=True)
        server_certificate(self.folder)
        crl = f"ssl_crl {self.crl};" if self.crl else ""
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"""{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr info;
events {{}}
http {{
    access_log off;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    server {{
        listen 127.0.0.1:{self.port} ssl;
        ssl_certificate server.crt;
        ssl_certificate_key server.key;
        ssl_client_certificate {self.authority};
        ssl_verify_client on;
        {crl}
        ssl_session_cache off;
        ssl_session_tickets off;
        location / {{ return 200 "$ssl_client_s_dn $ssl_client_serial"; }}
    }}
}}
"""
        )

    def command(self, *more: str) -> list[str]:
        """Return the command that starts it, or that signals it."""
        server = str(program("nginx", "nginx"))
        return [server, "-p", f"{self.folder}/", "-e", "stderr", "-c", "nginx.conf", *more]

    def start(self) -> None:
        self.process = self._stack.enter_context(
            running(self.command(), log=self.folder / "log", port=self.port)
        )

    def stop(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def nginx(
    folder: Path, authority: Path, crl: Path | None, *, port: int | None = None
) -> Iterator[Nginx]:
    """Run a server that trusts ``authority`` and heeds ``crl``."""
    server = Nginx(folder, port or free_port(), authority, crl)
    server.lay()
    try:
        server.start()
        yield server
    finally:
        server.stop()
