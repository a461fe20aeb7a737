"""moto in server mode, with the rules of STS and IAM that moto leaves out, run as a program.

moto checks signatures and the actions of policies. It does not evaluate conditions of a role's
policies, session policies, expiry, a web identity's token, or STS's limits: these are here, written
from AWS's reference, apart from the broker. Every session that begins is written down in FOLDER/sessions, for tests.
Run with moto on the path:

python aws_server.py PORT FOLDER    (FOLDER/jwks.json: the issuer's keys; FOLDER/ahead: seconds)
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from moto.core.exceptions import AccessDeniedError, ServiceException
from moto.core.exceptions import _RESTError as RESTError
from moto.core.utils import utcnow
from moto.iam import access_control
from moto.iam.exceptions import NotFoundException
from moto.iam.models import iam_backends
from moto.s3.exceptions import S3ClientError
from moto.server import main
from moto.sts.models import sts_backends
from moto.sts.responses import TokenResponse

FOLDER = Path(sys.argv[2])
_NAME = re.compile(r"[\w+=,.@-]{2,64}\Z", re.ASCII)
_TAG = re.compile(r"[\w.:/=+@ -]{0,256}\Z")


class StsError(ServiceException):
    """An error of STS by its code."""


class ExpiredError(S3ClientError):
    code = 400

    def __init__(self) -> None:
        super().__init__("ExpiredToken", "The provided token has expired.")


class StsExpiredError(AccessDeniedError):
    code = 400

    def __init__(self) -> None:
        super().__init__("", "")
        RESTError.__init__(self, "ExpiredToken", "The security token is expired")


def ahead() -> timedelta:
    file = FOLDER / "ahead"
    return timedelta(seconds=float(file.read_text())) if file.exists() else timedelta(0)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- policies: every deny, then some allow, conditions included ---


def matches(pattern: str, value: str) -> bool:
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def holds(condition: dict[str, dict[str, Any]], facts: dict[str, str]) -> bool:
    for operator, wanted in condition.items():
        test = {"StringEquals": str.__eq__, "StringLike": matches}[operator]
        for key, values in wanted.items():
            value = facts.get(key)
            if value is None or not any(test(each, value) for each in as_list(values)):
                return False
    return True


def verdict(documents: list[Any], action: str, resource: str, facts: dict[str, str]) -> str:
    found = "implicit"
    for document in documents:
        for statement in as_list(document["Statement"]):
            if (
                any(matches(each, action) for each in as_list(statement["Action"]))
                and any(matches(each, resource) for each in as_list(statement["Resource"]))
                and holds(statement.get("Condition", {}), facts)
            ):
                if statement["Effect"] == "Deny":
                    return "deny"
                found = "allow"
    return found


def session_of(access_key_id: str, account: str, partition: str) -> Any:
    for role in sts_backends[account][partition].assumed_roles:
        if role.access_key_id == access_key_id:
            return role
    return None


def run_out() -> None:
    """What has run out stays so, though a test turns the clock back."""
    now = utcnow() + ahead()
    for account in sts_backends.values():
        for backend in account.values():
            for role in backend.assumed_roles:
                if role.expiration <= now:
                    role.expiration = utcnow() - timedelta(days=365)


def check_action_permitted(self: Any, resource: str) -> None:
    run_out()
    key = self._access_key
    session = session_of(key._access_key_id, key.account_id, key.partition)
    if session is not None and session.expiration <= utcnow() + ahead():
        raise ExpiredError if self._service == "s3" else StsExpiredError
    if self._action == "sts:GetCallerIdentity":
        return
    documents = [access_control.IAMPolicy(each)._policy_json for each in key.collect_policies()]
    facts = {}
    if session is not None:
        facts = {"aws:userid": session.user_id, **getattr(session, "facts", {})}
    if verdict(documents, self._action, resource, facts) != "allow":
        self._raise_access_denied()
    if session is not None and (session.policy or getattr(session, "arns", ())):
        narrow = [json.loads(session.policy)] if session.policy else []
        for arn in session.arns:
            policy = iam_backends[key.account_id][key.partition].get_policy(arn)
            narrow.append(json.loads(policy.default_version.document))
        if verdict(narrow, self._action, resource, facts) != "allow":
            self._raise_access_denied()
    if self._is_assuming_role_operation(resource) and not self._check_role_trust_relationship(
        resource
    ):
        self._raise_access_denied()


access_control.IAMRequestBase.check_action_permitted = check_action_permitted


# --- STS: limits, tags, source identity, and the token of a web identity ---


def begin(self: Any, original: Any, source: str | None, tags: dict[str, str]) -> Any:
    given = self._get_param
    role_arn, name = given("RoleArn"), given("RoleSessionName") or ""
    seconds, policy = int(given("DurationSeconds") or 3600), given("Policy")
    account, partition = role_arn.split(":")[4], role_arn.split(":")[1]
    try:
        role = iam_backends[account][partition].get_role_by_arn(role_arn)
    except NotFoundException:
        raise StsError("AccessDenied", "no such role") from None
    if not _NAME.match(name) or (source is not None and not _NAME.match(source)):
        raise StsError("ValidationError", "RoleSessionName or SourceIdentity")
    if not 900 <= seconds <= int(role.max_session_duration or 3600):
        raise StsError("ValidationError", "DurationSeconds exceeds the MaxSessionDuration")
    if policy is not None and len(policy) > 2048:
        raise StsError("ValidationError", "Policy")
    if policy is not None:
        try:
            json.loads(policy)["Statement"]
        except (ValueError, KeyError):
            raise StsError("MalformedPolicyDocument", "Policy") from None
    if not all(_TAG.match(value) and len(key) <= 128 for key, value in tags.items()):
        raise StsError("ValidationError", "Tags")
    result = original(self)
    session = result.result["Credentials"]
    session.arns = [each["arn"] for each in given("PolicyArns") or []]
    session.facts = {f"aws:PrincipalTag/{key}": value for key, value in tags.items()}
    if source is not None:
        session.facts["aws:SourceIdentity"] = source
    with (FOLDER / "sessions").open("a") as file:  # for tests: what AWS tells nobody
        keys = [session.access_key_id, session.secret_access_key, session.session_token]
        end = session.expiration.replace(tzinfo=UTC).timestamp()
        file.write(json.dumps({"name": name, "keys": keys, "end": end}) + "\n")
    return result


original_assume, original_web = (
    TokenResponse.assume_role,
    TokenResponse.assume_role_with_web_identity,
)


def assume_role(self: Any) -> Any:
    tags = {each["Key"]: each["Value"] for each in self._get_param("Tags") or []}
    return begin(self, original_assume, self._get_param("SourceIdentity"), tags)


def assume_role_with_web_identity(self: Any) -> Any:
    keys = KeySet.import_key_set(json.loads((FOLDER / "jwks.json").read_text()))
    try:
        claims = jwt.decode(self._get_param("WebIdentityToken"), keys).claims
    except (JoseError, ValueError):
        raise StsError("InvalidIdentityToken", "signature") from None
    now = utcnow().timestamp()
    if claims["exp"] <= now:
        raise StsError("ExpiredTokenException", "token")
    account = self._get_param("RoleArn").split(":")[4]
    try:
        role = iam_backends[account]["aws"].get_role_by_arn(self._get_param("RoleArn"))
    except NotFoundException:
        raise StsError("AccessDenied", "no such role") from None
    host = claims["iss"].removeprefix("https://")
    facts = {f"{host}:aud": claims["aud"], f"{host}:sub": claims["sub"]}
    trusted = [
        statement
        for statement in json.loads(role.assume_role_policy_document)["Statement"]
        if "sts:AssumeRoleWithWebIdentity" in as_list(statement["Action"])
        and statement["Principal"].get("Federated", "").endswith(f":oidc-provider/{host}")
    ]
    wanted = {"sts:AssumeRoleWithWebIdentity"}
    source = claims.get("https://aws.amazon.com/source_identity")
    tags = claims.get("https://aws.amazon.com/tags", {}).get("principal_tags", {})
    wanted |= {"sts:SetSourceIdentity"} if source else set()
    wanted |= {"sts:TagSession"} if tags else set()
    if not any(
        wanted <= set(as_list(each["Action"])) and holds(each.get("Condition", {}), facts)
        for each in trusted
    ):
        raise StsError("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
    return begin(self, original_web, source, {key: values[0] for key, values in tags.items()})


TokenResponse.assume_role = assume_role
TokenResponse.assume_role_with_web_identity = assume_role_with_web_identity

authorize = TokenResponse._authenticate_and_authorize_normal_action


def unless_web(self: Any, resource: str = "*") -> None:
    if self._get_action() != "AssumeRoleWithWebIdentity":  # unsigned: the token is the proof
        authorize(self, resource)


TokenResponse._authenticate_and_authorize_normal_action = unless_web

if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
