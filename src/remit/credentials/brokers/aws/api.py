"""The two query APIs of AWS that are needed, STS and IAM: signed with ``botocore``, sent with aiohttp.

``botocore`` signs and nothing else: its clients block, and take keys, regions, proxies and endpoints
from files and the environment. Of an answer that is no success the error's code is told, never
its text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from remit.credentials.answers import Target
from remit.credentials.brokers.aws.options import Options
from remit.credentials.port import Signer
from remit.model.errors import BrokerError, NotMintedError

SHORTEST_SECONDS = 900
"""What STS gives at least, whatever is asked."""
LONGEST_SECONDS = 43_200
_MOST_BYTES = 512 * 1024
_TOKEN_SECONDS = 300
_FRESH_SECONDS = 60
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_VERSIONS = {"sts": "2011-06-15", "iam": "2010-05-08"}
_IAM = {
    "aws-cn": ("https://iam.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    "aws-us-gov": ("https://iam.us-gov.amazonaws.com", "us-gov-west-1"),
}


class RefusedError(NotMintedError):
    """AWS answered, and did not do it; ``aws_code`` is its word for why."""

    def __init__(self, what: str, code: str) -> None:
        super().__init__(f"aws: {what} was refused: `{code}`{_HINTS.get(code, '')}")
        self.aws_code = code


_OVER = frozenset({"AccessDenied", "ExpiredToken", "ExpiredTokenException"})
_HINTS = {
    "AccessDenied": ": look at the role's trust policy, and at what remit's own identity may do",
    "ExpiredTokenException": ": look at this machine's clock",
    "InvalidClientTokenId": ": look at `access_key_id`",
    "InvalidIdentityToken": ": AWS has to reach the issuer's keys; look at the OIDC provider",
    "IDPRejectedClaim": ": look at the role's conditions on `sub` and `aud`",
    "PackedPolicyTooLarge": ": shorten `policy`, `policy_arns` or `tags`",
    "SignatureDoesNotMatch": ": look at the secret access key",
    "ValidationError": ": look at the role's longest session (`MaxSessionDuration`), and the grant",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Keys of one role session."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None


class Api:
    """Asks STS and IAM as Remit."""

    def __init__(
        self,
        options: Options,
        *,
        http: aiohttp.ClientSession,
        signer: Signer,
        clock: Callable[[], datetime],
        secret: Callable[[], str] | None,
        installation: str,
    ) -> None:
        """``secret`` reads the secret access key where Remit has one."""
        self._options = options
        self._http = http
        self._signer = signer
        self._clock = clock
        self._secret = secret
        self._installation = installation
        suffix = ".cn" if options.partition == "aws-cn" else ""
        self._sts_url = options.sts_url or f"https://sts.{options.region}.amazonaws.com{suffix}"
        iam_url, self._iam_region = _IAM.get(
            options.partition, ("https://iam.amazonaws.com", "us-east-1")
        )
        self._iam_url = options.iam_url or iam_url
        self._revoker: Session | None = None

    async def assume(
        self,
        *,
        role: str,
        name: str,
        seconds: int,
        source_identity: str | None = None,
        tags: Mapping[str, str] | None = None,
        policy: str | None = None,
        policy_arns: tuple[str, ...] = (),
    ) -> Session:
        """Begin a session of a role.

        Raises:
            NotMintedError: AWS refused, or was never reached.
            BrokerError: it failed, and a session may have begun.
        """
        given: dict[str, str] = {
            "RoleArn": role,
            "RoleSessionName": name,
            "DurationSeconds": str(min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)),
        }
        if policy:
            given["Policy"] = policy
        given |= {
            f"PolicyArns.member.{number}.arn": arn for number, arn in enumerate(policy_arns, 1)
        }
        if self._secret is None:
            given["WebIdentityToken"] = self._token(source_identity, tags or {})
            answer = await self._ask("sts", "AssumeRoleWithWebIdentity", given, None)
        else:
            if source_identity:
                given["SourceIdentity"] = source_identity
            if self._options.external_id:
                given["ExternalId"] = self._options.external_id
            for number, (key, value) in enumerate((tags or {}).items(), 1):
                given |= {f"Tags.member.{number}.Key": key, f"Tags.member.{number}.Value": value}
            answer = await self._ask("sts", "AssumeRole", given, self._keys())
        try:
            expires_at = datetime.fromisoformat(_text(answer, "Expiration"))
            session = Session(
                access_key_id=_text(answer, "AccessKeyId"),
                secret_access_key=_text(answer, "SecretAccessKey"),
                session_token=_text(answer, "SessionToken"),
                expires_at=expires_at,
            )
        except ValueError:
            raise BrokerError("aws: a session was answered with something else") from None
        if expires_at.tzinfo is None:
            raise BrokerError("aws: a session's expiry has no time zone")
        return session

    async def accepts(self, session: Session) -> bool:
        """Ask with a session's own keys for what it may do until it is over.

        Raises:
            BrokerError: AWS said neither yes nor no.
        """
        given = {"AccessKeyId": session.access_key_id}
        try:
            await self._ask("sts", "GetAccessKeyInfo", given, session)
        except RefusedError as error:
            if error.aws_code not in _OVER:
                raise
            return False
        return True

    async def role_policy(self, name: str) -> str | None:
        """Return an inline policy of the role as IAM has it; None where there is none.

        Raises:
            BrokerError: IAM did not say.
        """
        given = {"RoleName": self._options.role_name, "PolicyName": name}
        try:
            answer = await self._iam("GetRolePolicy", given)
        except RefusedError as error:
            if error.aws_code == "NoSuchEntity":
                return None
            raise
        return _text(answer, "PolicyDocument")

    async def put_role_policy(self, name: str, document: str) -> None:
        """Write an inline policy of the role.

        Raises:
            BrokerError: IAM did not.
        """
        given = {
            "RoleName": self._options.role_name,
            "PolicyName": name,
            "PolicyDocument": document,
        }
        await self._iam("PutRolePolicy", given)

    async def _iam(self, action: str, given: Mapping[str, str]) -> ET.Element:
        try:
            return await self._ask("iam", action, given, await self._as_revoker())
        except RefusedError as error:
            if self._revoker is None or not error.aws_code.startswith("ExpiredToken"):
                raise
        self._revoker = None
        return await self._ask("iam", action, given, await self._as_revoker())

    async def _as_revoker(self) -> Session:
        """Return the keys that deny: Remit's own, or a session of the revoker's role."""
        if self._secret is not None:
            return self._keys()
        soon = self._clock() + timedelta(seconds=_FRESH_SECONDS)
        held = self._revoker
        if held is None or held.expires_at is None or held.expires_at < soon:
            held = self._revoker = await self.assume(
                role=self._options.revoker_role or "",
                name=f"{self._installation}-revoker",
                seconds=SHORTEST_SECONDS,
            )
        return held

    def _keys(self) -> Session:
        secret = self._secret() if self._secret is not None else ""
        return Session(access_key_id=self._options.access_key_id or "", secret_access_key=secret)

    def _token(self, source_identity: str | None, tags: Mapping[str, str]) -> str:
        now = int(self._clock().timestamp())
        claims: dict[str, Any] = {
            "sub": self._options.subject,
            "aud": self._options.audience,
            "iat": now,
            "nbf": now,
            "exp": now + _TOKEN_SECONDS,
            "jti": secrets.token_hex(16),
        }
        if source_identity:
            claims["https://aws.amazon.com/source_identity"] = source_identity
        if tags:
            claims["https://aws.amazon.com/tags"] = {
                "principal_tags": {key: [value] for key, value in tags.items()},
                "transitive_tag_keys": [],
            }
        return self._signer.sign_jwt(claims)

    async def _ask(
        self, service: str, action: str, given: Mapping[str, str], keys: Session | None
    ) -> ET.Element:
        url, region = (
            (self._sts_url, self._options.region)
            if service == "sts"
            else (self._iam_url, self._iam_region)
        )
        address = url.rstrip("/") + "/"
        body = urlencode({"Action": action, "Version": _VERSIONS[service], **given}).encode()
        headers = {"Content-Type": _FORM}
        if keys is not None:
            request = AWSRequest(method="POST", url=address, data=body, headers=headers)
            own = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
            SigV4Auth(own, service, region).add_auth(request)
            headers = {str(key): str(value) for key, value in request.headers.items()}
        target = Target(
            name=f"aws: `{service}`",
            http=self._http,
            seconds=self._options.timeout_seconds,
            most_bytes=_MOST_BYTES,
        )
        said = await target.ask("POST", URL(address, encoded=True), headers=headers, data=body)
        status = said.status
        try:
            answer = ET.fromstring(said.body)  # noqa: S314 - bounded, of a host whose TLS we checked; expat bounds entities
        except ET.ParseError:
            raise BrokerError(f"aws: `{action}` was answered with {status} and no XML") from None
        if status == 200:  # noqa: PLR2004 - OK
            return answer
        code = next((each.text for each in answer.iter() if _name(each) == "Code"), None) or ""
        safe = code if code.isascii() and code.replace(".", "").isalnum() else str(status)
        if 400 <= status < 500:  # noqa: PLR2004 - AWS's word that it was not done
            raise RefusedError(f"`{action}`", safe[:60])
        raise BrokerError(f"aws: `{action}` failed: {status} `{safe[:60]}`")


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(answer: ET.Element, name: str) -> str:
    for each in answer.iter():
        if _name(each) == name and each.text:
            return each.text
    raise BrokerError(f"aws: an answer without `{name}`")
