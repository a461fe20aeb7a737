"""Whom an upstream's grant names in a certificate, beside the agent and its task."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from remit.credentials.grants import refers
from remit.model.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 _.@:-]{0,62}[A-Za-z0-9_]\Z|[A-Za-z0-9_]\Z")
_Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=16)]


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a certificate names beside the agent and its task."""

    common_name: str | None = None
    organization: _Names = ()


def check_grant(grant: Grant) -> None:
    """Look at a grant; references that are not filled in yet are passed over.

    Raises:
        ConfigError: a name that other programs could read in two ways.
    """
    names = [("organization", each) for each in grant.organization]
    if grant.common_name is not None:
        names.append(("common_name", grant.common_name))
    for key, name in names:
        if not refers(name) and not _NAME.match(name):
            shown = name[:80].encode("unicode_escape").decode().replace("`", "'")
            raise ConfigError(
                f"`{shown}` in `{key}` is no name that a certificate is given here: 1 to 64 of "
                "A-Z a-z 0-9 space _ . @ : -, with a letter or digit at both ends"
            )
