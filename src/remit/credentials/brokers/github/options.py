"""What ``[broker.NAME]`` of kind ``github`` and its grants may say, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from remit.credentials.grants import REFERENCE
from remit.credentials.tables import Seconds, read_table, require_https
from remit.model.errors import ConfigError

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?\Z")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
MOST_REPOSITORIES = 500
LEVELS = ("read", "write", "admin")
_HIGHEST_ADMIN = frozenset(
    {
        "organization_custom_properties",
        "organization_projects",
        "repository_projects",
        "enterprise_custom_properties_for_organizations",
    }
)
PERMISSIONS = frozenset(
    {
        *_HIGHEST_ADMIN,
        *("actions", "administration", "artifact_metadata", "attestations", "checks"),
        *("codespaces", "contents", "custom_properties_for_organizations", "dependabot_secrets"),
        *("deployments", "discussions", "environments", "issues", "members", "merge_queues"),
        *("metadata", "organization_administration", "organization_announcement_banners"),
        *("organization_copilot_seat_management", "organization_custom_org_roles"),
        *("organization_custom_roles", "organization_events", "organization_hooks"),
        *("organization_packages", "organization_personal_access_token_requests"),
        *("organization_personal_access_tokens", "organization_plan", "organization_secrets"),
        *("organization_self_hosted_runners", "organization_user_blocking", "packages", "pages"),
        *("pull_requests", "repository_custom_properties", "repository_hooks"),
        *("secret_scanning_alerts", "secrets", "security_events", "single_file", "statuses"),
        *("team_discussions", "vulnerability_alerts", "workflows"),
    }
)
"""Of the ``app-permissions`` schema; a name that GitHub adds later has to be added here."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's table; docs/brokers/github.md says what goes wrong otherwise."""

    client_id: str
    private_key: str | None = None
    private_key_file: str | None = None
    installation_id: int | None = None
    organization: str | None = None
    api_url: str = "https://api.github.com"
    timeout_seconds: Seconds = 5.0


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one token may do."""

    permissions: dict[str, str]
    repositories: list[str] = []
    repository_ids: list[int] = []
    all_repositories: bool = False


def read_options(name: str, table: Mapping[str, Any]) -> Options:
    """Check a broker's table.

    Raises:
        ConfigError: an unknown key, a wrong type, or settings that contradict each other.
    """
    where = f"`[broker.{name}]`"
    options = read_table(table, Options, where)
    shape = "https://host, or https://host/api/v3"
    require_https(f"{where}: `api_url`", options.api_url, shape, "every token", path=True)
    if not _CLIENT_ID.match(options.client_id):
        raise ConfigError(f"{where}: `client_id` is the App's client ID or its number")
    if (options.installation_id is None) == (options.organization is None):
        raise ConfigError(f"{where}: name either `installation_id` or `organization`")
    if options.installation_id is not None and options.installation_id < 1:
        raise ConfigError(f"{where}: `installation_id` is a number above 0")
    if options.organization is not None and not _OWNER.match(options.organization):
        raise ConfigError(f"{where}: `organization` is the name of an organization")
    return options


def check_grant(raw: Mapping[str, Any]) -> None:
    """Look at a grant whose references are not filled in yet.

    Raises:
        ConfigError: what :func:`read_grant` refuses, or arguments that would choose permissions.
    """
    permissions = raw.get("permissions")
    if isinstance(permissions, Mapping) and any(
        REFERENCE.search(f"{key} {value}") for key, value in permissions.items()
    ):
        raise ConfigError("`permissions` takes no references: an argument does not choose them")
    plain = dict(raw)
    names = raw.get("repositories")
    if isinstance(names, list | tuple):
        plain["repositories"] = [
            REFERENCE.sub("x", each) if isinstance(each, str) else each for each in names
        ]
    elif isinstance(names, str) and REFERENCE.fullmatch(names):
        plain["repositories"] = ["x"]
    read_grant(plain)


def read_grant(raw: Mapping[str, Any]) -> Grant:
    """Return a grant.

    Raises:
        ConfigError: an unknown key, a wrong type, or a name that is none.
    """
    grant = read_table(raw, Grant)
    named = (bool(grant.repositories), bool(grant.repository_ids), grant.all_repositories)
    if sum(named) != 1:
        raise ConfigError(
            "name one of `repositories`, `repository_ids`, or `all_repositories = true`: "
            "github takes none as all"
        )
    for repository in grant.repositories:
        if not _REPOSITORY.match(repository) or not repository.strip("."):
            raise ConfigError(
                f"`repositories`: `{repository[:60]}` is no name of a repository (without its owner)"
            )
    if any(number < 1 for number in grant.repository_ids):
        raise ConfigError("`repository_ids` are numbers above 0")
    if max(len(grant.repositories), len(grant.repository_ids)) > MOST_REPOSITORIES:
        raise ConfigError(f"github takes at most {MOST_REPOSITORIES} repositories a token")
    if not grant.permissions:
        raise ConfigError("`permissions` names at least one: github takes none as all of the App's")
    for permission, level in grant.permissions.items():
        if permission not in PERMISSIONS:
            raise ConfigError(f"`permissions`: github has no `{permission[:60]}`")
        levels = LEVELS if permission in _HIGHEST_ADMIN else LEVELS[:2]
        if level not in levels:
            raise ConfigError(f"`permissions`: `{permission}` is one of {', '.join(levels)}")
    return grant
