"""What ``[broker.NAME]`` of kind ``aws`` and its grants may say, read strictly.

A session policy is written by the operator; a call's arguments may fill in parts of a resource or
of a condition's value, never an action, and never with a wildcard: ``*`` from an agent would widen
what the operator meant to narrow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from remit.credentials.grants import REFERENCE, filled_anyhow, references, texts
from remit.credentials.tables import Seconds, read_table, require_https
from remit.model.errors import ConfigError

MOST_POLICY_CHARACTERS = 2048
MOST_POLICY_ARNS = 10
PROBE = "sts:GetAccessKeyInfo"
"""Tells the account of a key, which its holder knows: harmless, and not allowed by itself."""
_MOST_TAGS = 50
_ROLE = re.compile(
    r"arn:(?P<partition>aws[a-z-]{0,12}):iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}\Z", re.ASCII
)
_POLICY_ARN = re.compile(
    r"arn:aws[a-z-]{0,12}:iam::(?:[0-9]{12}|aws):policy/[\w+=,.@/-]{1,512}\Z", re.ASCII
)
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]{1,12}){1,3}-[0-9]{1,2}\Z")
_KEY_ID = re.compile(r"[A-Z0-9]{16,128}\Z")
_ACTION = re.compile(r"(?:\*|[A-Za-z0-9-]{1,64}:[A-Za-z0-9*?]{1,128})\Z")
_TAG_KEY = re.compile(r"(?!aws:)[\w.:/=+@ -]{1,128}\Z", re.IGNORECASE)
_TAG_VALUE = re.compile(r"[\w.:/=+@ -]{0,256}\Z")
_FILLED = r"[A-Za-z0-9_.:/@=+, -]+"
"""What may be filled into a policy: neither wildcard nor policy variable."""
_HARMLESS = "it may hold letters, digits, spaces and `_.:/@=+,-`, and is not empty"


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The broker's table; docs/brokers/aws.md says what goes wrong otherwise."""

    role: str
    region: str
    login: Literal["web_identity", "keys"] = "web_identity"
    audience: str = "sts.amazonaws.com"
    subject: str = "remit"
    access_key_id: str | None = None
    secret_access_key: str | None = None
    secret_access_key_file: str | None = None
    external_id: str | None = None
    source_identity: bool = True
    revoke: Literal["never", "session"] = "never"
    revoker_role: str | None = None
    probe: bool = False
    sts_url: str | None = None
    iam_url: str | None = None
    timeout_seconds: Seconds = 5.0

    @property
    def role_name(self) -> str:
        """The role's name, without its path."""
        return self.role.rpartition("/")[2]

    @property
    def partition(self) -> str:
        """Which of AWS's separate worlds: ``aws``, ``aws-cn``, ``aws-us-gov``."""
        return self.role.split(":")[1]


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One statement of a session policy, in AWS's own words."""

    Effect: Literal["Allow", "Deny"] = "Allow"
    Action: list[str]
    Resource: list[str]
    Condition: dict[str, dict[str, str | list[str]]] = {}


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one session may do; ``whole_role`` where the role itself is narrow enough."""

    policy: list[Statement] = []
    policy_arns: list[str] = []
    tags: dict[str, str] = {}
    whole_role: bool = False

    def policy_text(self, *, probe: bool = False) -> str | None:
        """Return the session policy as STS takes it, with the probe's action; None without any."""
        statements = [
            {key: value for key, value in msgspec.to_builtins(each).items() if value}
            for each in self.policy
        ]
        if probe and not self.whole_role:
            statements.append({"Effect": "Allow", "Action": PROBE, "Resource": "*"})
        if not statements:
            return None
        document = {"Version": "2012-10-17", "Statement": statements}
        return json.dumps(document, separators=(",", ":"))


def read_options(name: str, table: Mapping[str, Any]) -> Options:
    """Check a broker's table.

    Raises:
        ConfigError: an unknown key, a wrong type, or settings that contradict each other.
    """
    where = f"`[broker.{name}]`"
    options = read_table(table, Options, where)
    for key in ("role", "revoker_role"):
        value = getattr(options, key)
        if value is not None and not _ROLE.match(value):
            raise ConfigError(f"{where}: `{key}` is `arn:aws:iam::ACCOUNT:role/NAME`")
    if not _REGION.match(options.region):
        raise ConfigError(f"{where}: `region` is a name such as `eu-central-1`")
    for key in ("sts_url", "iam_url"):
        if (url := getattr(options, key)) is not None:
            shape = "https://host:port, without a path"
            require_https(f"{where}: `{key}`", url, shape, "every session's keys")
    _check_login(options, where)
    if not options.audience or not options.subject:
        raise ConfigError(f"{where}: `audience` and `subject` are not empty")
    return options


def _check_login(options: Options, where: str) -> None:
    if options.login == "keys":
        if not _KEY_ID.match(options.access_key_id or ""):
            raise ConfigError(f'{where}: `login = "keys"` wants `access_key_id`')
        if options.revoker_role:
            raise ConfigError(f'{where}: `revoker_role` has no use with `login = "keys"`')
    else:
        for key in ("access_key_id", "secret_access_key", "secret_access_key_file", "external_id"):
            if getattr(options, key) is not None:
                raise ConfigError(f'{where}: `{key}` wants `login = "keys"`')
        if options.revoke == "session" and not options.revoker_role:
            raise ConfigError(f'{where}: `revoke = "session"` wants `revoker_role`')


def read_grant(raw: Mapping[str, Any], *, probe: bool = False) -> Grant:
    """Return a grant whose references are filled in.

    Raises:
        ConfigError: an unknown key, a wrong type, or more than STS takes.
    """
    grant = read_table(raw, Grant)
    if grant.whole_role == bool(grant.policy or grant.policy_arns):
        raise ConfigError(
            "say what of the role is granted, `policy` or `policy_arns`; or `whole_role = true`"
        )
    for statement in grant.policy:
        _check_statement(statement)
    _check_arns(grant)
    text = grant.policy_text(probe=probe)
    if text is not None and len(text) > MOST_POLICY_CHARACTERS:
        raise ConfigError(
            f"`policy` has {len(text)} characters: STS takes {MOST_POLICY_CHARACTERS}"
        )
    _check_tags(grant)
    return grant


def _check_arns(grant: Grant) -> None:
    if len(grant.policy_arns) > MOST_POLICY_ARNS:
        raise ConfigError(f"`policy_arns` are at most {MOST_POLICY_ARNS}")
    for arn in grant.policy_arns:
        if not _POLICY_ARN.match(arn):
            raise ConfigError(f"`policy_arns`: `{arn[:60]}` is no ARN of a policy")


def _check_tags(grant: Grant) -> None:
    if len(grant.tags) > _MOST_TAGS or len({key.lower() for key in grant.tags}) < len(grant.tags):
        raise ConfigError(f"`tags` are at most {_MOST_TAGS}, whose keys differ in more than case")
    for key, value in grant.tags.items():
        if not _TAG_KEY.match(key):
            raise ConfigError(f"`tags`: `{key[:40]}` is no key of a tag")
        if not _TAG_VALUE.match(value):
            raise ConfigError(f"`tags`: what `{key}` is set to is no value of a tag")


def _check_statement(statement: Statement) -> None:
    if not statement.Action or not statement.Resource:
        raise ConfigError("`policy`: each statement names at least one `Action` and one `Resource`")
    for action in statement.Action:
        if not _ACTION.match(action):
            raise ConfigError(f"`policy`: `{action[:60]}` is no action such as `s3:GetObject`")
    for resource in statement.Resource:
        if resource != "*" and not resource.startswith("arn:"):
            raise ConfigError(f"`policy`: `{resource[:60]}` is no ARN")


class Grants:
    """Every grant that the configuration has: what a call's arguments filled in is held to them."""

    def __init__(self, *, probe: bool = False) -> None:
        """``probe``: the probe's action is added to each session policy."""
        self._probe = probe
        self._templates: list[Mapping[str, Any]] = []

    def check(self, raw: Mapping[str, Any]) -> None:
        """Look at a grant whose references are not filled in yet, and remember it.

        Raises:
            ConfigError: what :func:`read_grant` refuses, or a reference where none may stand.
        """
        for key in raw:
            if key not in {"policy", "tags"} and references(raw[key]):
                raise ConfigError(f"`{key}` takes no references to the call")
        for statement in raw.get("policy", ()) or ():
            if isinstance(statement, Mapping):
                for key, value in statement.items():
                    if key not in {"Resource", "Condition"} and references(value):
                        raise ConfigError(f"`policy`: `{key}` takes no references to the call")
        if any(references(key) for key in _keys(raw)):
            raise ConfigError("references stand in values, not in keys")
        read_grant(filled_anyhow(raw), probe=self._probe)
        self._templates.append(dict(raw))

    def filled(self, raw: Mapping[str, Any], arguments: Mapping[str, Any]) -> Grant:
        """Return a grant that was filled in from a call with these arguments.

        Raises:
            ConfigError: an argument brought a wildcard, a variable, or nothing into the policy.
        """
        policy = raw.get("policy", [])
        known = [each.get("policy", []) for each in self._templates]
        if known and not any(_fits(template, policy) for template in known):
            raise ConfigError(f"an argument would widen the session policy: {_HARMLESS}")
        # What one binding's grant says literally could be another's with a wildcard filled in.
        filled = texts(policy)
        for name in {name for each in known for name in _arguments(each)}:
            value = str(arguments.get(name, "x"))
            bad = value and not re.fullmatch(_FILLED, value)
            if bad and any(value in text for text in filled):
                raise ConfigError(f"argument `{name}` would widen the session policy: {_HARMLESS}")
        return read_grant(raw, probe=self._probe)


def _fits(template: Any, value: Any) -> bool:
    """Whether ``value`` is the template with nothing but harmless text filled in."""
    if isinstance(template, str):
        if REFERENCE.fullmatch(template) and isinstance(value, list):
            return False  # a list of resources is the operator's to write
        if not isinstance(value, str):
            return False
        parts = [re.escape(part) for part in REFERENCE.split(template)[::3]]  # groups between
        return re.fullmatch(_FILLED.join(parts), value) is not None
    if isinstance(template, Mapping):
        return (
            isinstance(value, Mapping)
            and template.keys() == value.keys()
            and all(_fits(template[key], value[key]) for key in template)
        )
    if isinstance(template, Sequence):
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and len(template) == len(value)
            and all(_fits(one, other) for one, other in zip(template, value, strict=True))
        )
    return bool(template == value)


def _arguments(template: Any) -> list[str]:
    """Return the names of the arguments that a template refers to."""
    return [name for of, name in references(template) if of == "args"]


def _keys(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [*map(str, value), *(key for each in value.values() for key in _keys(each))]
    if isinstance(value, list | tuple):
        return [key for each in value for key in _keys(each)]
    return []
