"""Reads the URI of a key in AWS KMS strictly: ``awskms://[HOST[:PORT]]/ARN``, as cosign writes it.

Of the forms that are around, only those with a whole ARN are taken. It names the region and the
account, so that no variable of the environment chooses another key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from remit.model.errors import ConfigError

MAX_CHARACTERS = 512
_SCHEME = "awskms:"
_ARN = re.compile(
    r"arn:(?P<partition>aws(?:-[a-z]{1,12}){0,3})"
    r":kms:(?P<region>[a-z]{2,8}(?:-[a-z]{1,16}){1,4}-[0-9]{1,2})"
    r":(?P<account>[0-9]{12})"
    r":(?:key/(?P<key>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
    r"|(?P<alias>alias/[A-Za-z0-9/_-]{1,250}))\Z"
)
_HOST = re.compile(
    r"(?P<name>[a-z0-9](?:[a-z0-9-]{0,62})(?:\.[a-z0-9](?:[a-z0-9-]{0,62})){0,12})"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?\Z"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1"})
_MOST_PORT = 65_535
_AWS_OWN = "alias/aws/"


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsUri:
    """One key by its ARN, and where it is asked for."""

    arn: str
    region: str
    account: str
    alias: str | None
    """Its name, as ``alias/remit-log``; None where the ARN is a key's own."""
    endpoint: str | None
    """Where KMS is reached, if not at the region's own address."""
    shown: str
    """The URI: what messages show; there is no secret in it."""


def parse_uri(uri: str) -> KmsUri:
    """Read a URI.

    Raises:
        ConfigError: it is not of this form; what stands there is not shown.
    """
    if not uri.startswith(_SCHEME + "//") or len(uri) > MAX_CHARACTERS:
        raise ConfigError(
            "the URI of a key in AWS KMS is `awskms:///ARN`, as "
            "`awskms:///arn:aws:kms:eu-central-1:111122223333:alias/remit-log`"
        )
    host, _, arn = uri.removeprefix(_SCHEME + "//").partition("/")
    found = _ARN.match(arn)
    if found is None:
        # It is not shown: a secret access key may have been put into the wrong place.
        raise ConfigError(
            "`awskms://…/` wants the whole ARN of a key or of an alias behind it, and nothing "
            "else: `arn:aws:kms:REGION:ACCOUNT:key/ID` or `arn:aws:kms:REGION:ACCOUNT:alias/NAME`"
        )
    alias = found["alias"]
    if alias is not None and alias.startswith(_AWS_OWN):
        raise ConfigError(
            f"`{_AWS_OWN}…` are keys of AWS's services, which sign nothing for others"
        )
    return KmsUri(
        arn=arn,
        region=found["region"],
        account=found["account"],
        alias=alias,
        endpoint=_endpoint(host) if host else None,
        shown=uri,
    )


def _endpoint(host: str) -> str:
    found = _HOST.match(host)
    if found is None or (found["port"] is not None and int(found["port"]) > _MOST_PORT):
        raise ConfigError(
            "`awskms://HOST/…` wants the name of a host, with a port if need be: a VPC endpoint's, "
            "or none at all for the region's own"
        )
    # Without TLS only what does not leave the machine.
    return f"{'http' if found['name'] in _LOOPBACK else 'https'}://{host}"
