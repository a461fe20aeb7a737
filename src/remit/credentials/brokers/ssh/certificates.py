"""What an OpenSSH user certificate says: checked, quoted, signed."""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    SSHCertificateBuilder,
    SSHCertificateType,
)

from remit.credentials.grants import refers
from remit.model.errors import ConfigError

BACKDATED_SECONDS = 60
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,63}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_COMMAND = 4096

SigningKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey
_Extension = Literal[
    "permit-pty",
    "permit-port-forwarding",
    "permit-agent-forwarding",
    "permit-X11-forwarding",
    "permit-user-rc",
]


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a certificate allows."""

    principals: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=32)]
    source_address: Annotated[tuple[str, ...], msgspec.Meta(max_length=32)] = ()
    force_command: str | Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] | None = None
    extensions: Annotated[tuple[_Extension, ...], msgspec.Meta(max_length=8)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Which certificate it is, and from when until when; in seconds since 1970."""

    serial: int
    key_id: str
    now: int
    until: int


def sign_certificate(
    authority: SigningKey, key: Ed25519PrivateKey, grant: Grant, about: About
) -> str:
    """Return a user certificate for ``key`` as one line, with nothing that was not granted."""
    builder = (
        SSHCertificateBuilder()
        .public_key(key.public_key())
        .type(SSHCertificateType.USER)
        .serial(about.serial)
        .key_id(about.key_id.encode())
        .valid_principals([each.encode() for each in dict.fromkeys(grant.principals)])
        .valid_after(about.now - BACKDATED_SECONDS)
        .valid_before(about.until)
    )
    if grant.source_address:
        networks = ",".join(_network(each) for each in grant.source_address)
        builder = builder.add_critical_option(b"source-address", networks.encode())
    if (command := _command(grant.force_command)) is not None:
        builder = builder.add_critical_option(b"force-command", command.encode())
    for extension in dict.fromkeys(grant.extensions):
        builder = builder.add_extension(extension.encode(), b"")
    return builder.sign(authority).public_bytes().decode()


def check_grant(grant: Grant) -> None:
    """Look at a grant; references that are not filled in yet are passed over.

    Raises:
        ConfigError: a value makes no sense.
    """
    for each in grant.principals:
        if not refers(each) and not NAME.match(each):
            raise ConfigError(
                f"`{shown(each)}` in `principals` is no name that a certificate is given here: "
                "1 to 64 of A-Z a-z 0-9 _ . @ : + -, not beginning with a sign"
            )
    for each in grant.source_address:
        if not refers(each):
            _network(each)
    if isinstance(grant.force_command, str) and refers(grant.force_command):
        raise ConfigError(
            "`force_command` with a reference has to be a list, one word an element: "
            "the words are quoted for the shell, a text is not"
        )
    _command(grant.force_command)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ConfigError(
            f"`{shown(text)}` in `source_address` is no address or network (192.0.2.0/24)"
        ) from error


def _command(words: str | tuple[str, ...] | None) -> str | None:
    if words is None:
        return None
    text = words if isinstance(words, str) else shlex.join(words)
    if not text.strip() or _CONTROL.search(text) or len(text) > _LONGEST_COMMAND:
        raise ConfigError(
            "`force_command` is empty, longer than 4096 characters, or has a control character"
        )
    return text


def shown(text: str) -> str:
    """Return a stranger's text so that it can stand in a message."""
    return text[:80].encode("unicode_escape").decode().replace("`", "'")


def private_text(key: Ed25519PrivateKey) -> str:
    """Return a private key in OpenSSH's own format."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def telling_lines(private: str) -> tuple[str, ...]:
    """Return the lines that no other key has, so that a key taken out of its frame is seen too."""
    least = 16
    return tuple(line for line in private.splitlines()[2:-1] if len(line) >= least)
