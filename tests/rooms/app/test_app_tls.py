"""TLS by files: the port speaks it, and a wrong file is said so."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from processes import free_port

from remit.app.config import load
from remit.app.serve import serving
from remit.model.errors import ConfigError


def certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "remit")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def config(folder: Path, port: int) -> Path:
    path = folder / "remit.toml"
    path.write_text(
        f'[authority]\nstate = "s"\nlisten = "127.0.0.1:{port}"\n'
        '[authority.tls]\ncert = "cert.pem"\nkey = "key.pem"\n'
    )
    return path


async def test_with_files_the_port_speaks_tls_and_nothing_else(tmp_path: Path):
    certificate(tmp_path)
    port = free_port()
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    async with serving(load(config(tmp_path, port))) as house:
        assert house.loaded.url == f"https://127.0.0.1:{port}"

        def fetch(scheme: str) -> int:
            address = f"{scheme}://127.0.0.1:{port}/healthz"
            context = trust if scheme == "https" else None
            with urllib.request.urlopen(address, timeout=5, context=context) as answer:
                status: int = answer.status
                return status

        assert await asyncio.to_thread(fetch, "https") == 200
        with pytest.raises((OSError, urllib.error.URLError)):
            await asyncio.to_thread(fetch, "http")


async def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="cert"):
        async with serving(load(config(tmp_path, free_port()))):
            pass
