"""What Remit's own token may do at OpenBao that it should not, or may not that it has to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from hvac.exceptions import Forbidden, VaultError

from remit.credentials.brokers.openbao.api import Api, answers, is_gone
from remit.credentials.brokers.openbao.carried import Asking, document
from remit.credentials.brokers.openbao.options import Options
from remit.credentials.brokers.openbao.standing import Standing
from remit.credentials.port import Finding

_LONG_SECONDS = 24 * 3600
"""A token of Remit's own that lives longer, and needs nobody to renew it, is a standing secret."""
_LOOK_SECONDS = 20.0
_MOST_LOOKED_AT = 200

_WRITES = frozenset({"create", "update", "patch", "delete", "sudo"})
_POWERS = (
    ("sys/policies/acl/any", "write policies, and so its own"),
    ("sys/auth/any", "mount login methods"),
    ("sys/mounts/any", "mount secrets engines"),
    ("sys/audit/any", "turn audit devices off"),
    ("sys/raw/any", "read and write the storage below every engine"),
    ("sys/seal", "seal the server"),
    ("sys/leases/revoke-prefix/any", "revoke everybody's leases at once"),
    ("sys/leases/revoke-force/any", "forget leases whose secrets live on"),
    ("identity/entity", "make identities"),
    ("auth/token/create-orphan", "make tokens that outlive its own"),
    ("auth/token/revoke-orphan", "leave what is below a token without a parent"),
)
"""Where a path ends in `any`, that stands for whatever name there is."""


async def survey(
    api: Api, standing: Standing, options: Options, installation: str
) -> list[Finding]:
    """Return what Remit's own token lacks, what it has too much of, and what its leases' tokens have.

    Raises:
        BrokerError: OpenBao could not be asked.
    """
    found = await _own_token(api)
    if any(each.said.startswith(_ROOT) for each in found):
        return found  # it may do everything: there is no use in listing it
    found += await _capabilities(api, options)
    if options.list_accessors and not any(each.stops for each in found):
        found += await _of_the_leases(api, standing, installation)
    return sorted(found, key=lambda each: not each.stops)


_ROOT = "Remit's own token is a root token"


async def _own_token(api: Api) -> list[Finding]:
    data = await _asked(api, "looking at Remit's own token", lambda c: c.auth.token.lookup_self())
    if data is None:
        return [
            Finding(
                said="Remit's own token may not look at itself, so nobody looked at its age: let "
                "it read `auth/token/lookup-self`, as the policy `default` does"
            )
        ]
    policies = {*_names(data, "policies"), *_names(data, "identity_policies")}
    if "root" in policies:
        return [Finding(said=f"{_ROOT}: give it the policy of docs/brokers/openbao.md alone")]
    found = []
    ttl, period = _number(data, "ttl"), _number(data, "period")
    if ttl == 0:
        found.append("Remit's own token never ends: give it a `period`, and have it renewed")
    elif ttl > _LONG_SECONDS and not period:
        found.append(
            f"Remit's own token lives for another {ttl // 3600} hours: make it a day's at most, or "
            "periodic"
        )
    elif period > _LONG_SECONDS:
        found.append(
            f"Remit's own token is good for {period // 3600} hours after each renewal: a `period` "
            "of an hour does where it is renewed"
        )
    if (uses := _number(data, "num_uses")) > 0:
        found.append(
            f"Remit's own token is good for {uses} more requests only: make one that is not"
        )
    return [Finding(said=each) for each in found]


async def _capabilities(api: Api, options: Options) -> list[Finding]:
    role = options.token_role
    makes = "auth/token/create" if role is None else f"auth/token/create/{role}"
    wanted = {
        makes: {"update"},
        "auth/token/lookup-accessor": {"update"},
        "auth/token/revoke-accessor": {"update"},
        "sys/leases/lookup": {"update"},
        "sys/leases/revoke": {"update"},
    }
    if options.list_accessors:
        wanted["auth/token/accessors"] = {"list", "sudo"}
    powers = dict(_POWERS)
    if role is not None:
        powers["auth/token/create"] = f"make tokens without the bounds of the token role `{role}`"
        powers[f"auth/token/roles/{role}"] = f"rewrite the token role `{role}`, which bounds it"
    paths = [*wanted, *powers]
    data = await _asked(
        api, "asking what Remit may do", lambda c: c.sys.get_capabilities(paths=paths)
    )
    if data is None:
        return [
            Finding(
                said="Remit's own token may not ask what it may do, so nobody looked: let it update "
                "`sys/capabilities-self`, as the policy `default` does"
            )
        ]
    may = {path: set(_names(data, path)) for path in paths}
    found = [
        Finding(
            said=f"Remit's own token may not {' and '.join(sorted(lacks))} `{path}`: its policy is "
            "in docs/brokers/openbao.md",
            stops=True,
        )
        for path, needs in wanted.items()
        if (lacks := needs - may[path])
    ]
    found += [
        Finding(said=f"Remit's own token may {words} (`{path}`): take that from its policy")
        for path, words in powers.items()
        if may[path] & _WRITES
    ]
    if role is None:
        found.append(
            Finding(
                said="no `token_role` is named, so Remit's own token holds every policy that it "
                "grants, and could use them itself"
            )
        )
    return found


async def _of_the_leases(api: Api, standing: Standing, installation: str) -> list[Finding]:
    """Look at the tokens that stand under our names: each should end by itself, with ours."""
    handles = {
        handle: accessor
        for handle, accessor in (await standing.by_handle()).items()
        if handle.startswith(f"{installation}-")
    }
    found = []
    looked = 0
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            for handle, accessor in sorted(handles.items())[:_MOST_LOOKED_AT]:
                data = await _asked(api, "looking up a token", _looking_up(accessor))
                looked += 1
                if data is not None and (wrong := _wrong_with(data)):
                    found.append(Finding(said=f"the token of `{handle}` {wrong}"))
    except TimeoutError:
        pass  # what was not looked at is said below
    if looked < len(handles):
        found.append(
            Finding(said=f"{len(handles) - looked} of {len(handles)} leases' tokens not looked at")
        )
    return found


def _wrong_with(data: Mapping[str, Any]) -> str | None:
    if "root" in _names(data, "policies"):
        return "is a root token: forbid that in the token role (`disallowed_policies`)"
    if data.get("orphan") is True:
        return "is an orphan, and outlives Remit's own: say `orphan=false` in the token role"
    if not _number(data, "ttl"):
        return "never ends: revoke it, and look at the token role"
    return None


def _looking_up(accessor: str) -> Asking:
    return lambda client: client.auth.token.lookup_accessor(accessor)


async def _asked(api: Api, what: str, asking: Asking) -> Mapping[str, Any] | None:
    """Return the answer's data, or None where Remit may not ask, or there is no such thing."""
    with answers(what):
        try:
            said = await api.as_remit(asking, again=False)
        except VaultError as error:
            if isinstance(error, Forbidden) or is_gone(error):
                return None
            raise
        return document(document(said, what)["data"], what)


def _names(data: Mapping[str, Any], key: str) -> Sequence[str]:
    value = data.get(key)
    return [str(each) for each in value] if isinstance(value, list) else []


def _number(data: Mapping[str, Any], key: str) -> int:
    value = data.get(key)
    return value if isinstance(value, int) else 0
