"""A lease's client certificate, shown in the handshake of one connection.

The context that holds it is made for one request and goes with it, and so does the connection: what
one lease opened is never there for another to send on, and no session of TLS is resumed.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

from remit.model.errors import ConfigError, UpstreamError


def trusting(ca_file: Path | None, where: str) -> ssl.SSLContext:
    """Return what verifies a server's certificate and name; there is no way to turn that off.

    Args:
        ca_file: the authorities that may have signed it, in place of the system's.
        where: whose file it is, for messages.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{where}: `ca_file` `{ca_file}` holds no certificates that can be read"
        ) from error


def presenting(pem: str, ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies the server, and shows it what ``pem`` holds. It blocks.

    Args:
        pem: a private key without a passphrase, and its certificate, leaf first.
        ca_file: the authorities that may have signed the server's, in place of the system's.

    Raises:
        UpstreamError: it holds no such thing, or ``ca_file`` cannot be read any more.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UpstreamError(
            f"`ca_file` `{ca_file}` holds no certificates that can be read"
        ) from error
    try:
        _load(context, pem.encode())
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise UpstreamError(
            "the credential in `tls` is no private key with its certificate"
        ) from error
    return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Have OpenSSL read it: it reads files alone, so this one is in memory where that can be had."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("remit", os.MFD_CLOEXEC), "wb") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_passphrase)
        return
    with tempfile.NamedTemporaryFile(prefix="remit-") as file:  # of mode 0600
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name, password=_no_passphrase)


def _no_passphrase() -> str:
    # Without this OpenSSL asks the terminal.
    raise ValueError("the key has a passphrase")
