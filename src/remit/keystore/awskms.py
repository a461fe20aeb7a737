"""Keys in AWS KMS. The extra ``aws`` has the library.

Who Remit is at AWS is found as every tool of AWS finds it: a role of the machine, the container or
the service account, the shared files, the environment. Endpoints and proxies of the environment are
not taken; the URI says where to ask.

Of an answer that is no success the error's code is told, never its text.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.loaders import create_loader
from botocore.session import Session

from remit.keystore.awskms_uri import parse_uri
from remit.keystore.ports import LONGEST_BYTES, Algorithm
from remit.model.errors import ConfigError, RemitError, UnavailableError

_OURS = {
    "connect_timeout": 1.0,
    "max_pool_connections": 1,
    "proxies": {},
    "ignore_configured_endpoint_urls": True,
}
# Twice, because a connection that was kept may be over, and a signature too many harms nobody. Two
# tries and the pause between take less than a key is given as a whole (`kept.SECONDS`).
_OFTEN = Config(**_OURS, read_timeout=1.5, retries={"mode": "standard", "total_max_attempts": 2})
# A second try could make a second key.
_ONCE = Config(**_OURS, read_timeout=3.5, retries={"mode": "standard", "total_max_attempts": 1})
_DESCRIPTIONS = create_loader()
"""The library's descriptions of services: read once, and its own alone."""
SEEN_SECONDS = 3.0
"""How long a key that was made is waited for: what KMS was told is not seen everywhere at once."""
_LOOK_SECONDS = 0.2

_SPECS = {
    Algorithm.ED25519: ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
    Algorithm.ES256: ("ECC_NIST_P256", "ECDSA_SHA_256"),
}
"""What KMS calls a key's kind, and its way to sign. `ED25519_PH_SHA_512` is another signature."""
_LONGEST_CODE = 60
_LOGIN = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_NO_LOGIN = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
_ENDED = "the key at `{shown}` is disabled, or waits for its end (`{code}`): see `{look}`"
_BUSY = "KMS was asked too often (`{code}`): raise the account's quota of requests for ECC keys"
_BARE = "403"
"""What the library makes of a refusal that is not in KMS's own form."""
_SAID: Mapping[str, tuple[type[RemitError], str]] = {
    _BARE: (
        UnavailableError,
        (
            "`kms:{operation}` is refused at `{shown}`: look at what Remit may do there, at its "
            "credentials, and at what stands between"
        ),
    ),
    "AccessDeniedException": (
        ConfigError,
        (
            "KMS lets Remit not `kms:{operation}` at `{shown}`: allow it in the key's policy; "
            "`aws sts get-caller-identity` says to whom"
        ),
    ),
    "DisabledException": (UnavailableError, _ENDED),
    "KMSInvalidStateException": (UnavailableError, _ENDED),
    "LimitExceededException": (UnavailableError, _BUSY),
    "ThrottlingException": (UnavailableError, _BUSY),
    "ValidationException": (
        ConfigError,
        "KMS does not take `{operation}` (`{code}`): does `{region}` have keys of the kind `{spec}`?",
    ),
}


class KmsKey:
    """Implements ``keystore.ports.RemoteKey``; the class is a ``KeyProvider``."""

    def __init__(self, uri: str, algorithm: Algorithm) -> None:
        """Read the URI.

        Raises:
            ConfigError: as :func:`remit.keystore.awskms_uri.parse_uri`.
        """
        self._uri = parse_uri(uri)
        self._algorithm = algorithm
        self._spec, self._signing = _SPECS[algorithm]
        self._client: Any | None = None

    def public_key(self) -> bytes:
        """Return the public half."""
        with self._asking("GetPublicKey"):
            return self._public(self._connected().get_public_key(KeyId=self._uri.arn))

    def sign(self, message: bytes) -> bytes:
        """Return a signature."""
        kind = "RAW"
        if not 0 < len(message) <= LONGEST_BYTES:
            if self._algorithm is Algorithm.ED25519:  # it hashes twice: no digest can be sent
                raise ConfigError(f"KMS signs 1 to {LONGEST_BYTES} bytes with this kind of key")
            kind, message = "DIGEST", hashlib.sha256(message).digest()
        with self._asking("Sign"):
            said = self._connected().sign(
                KeyId=self._uri.arn,
                Message=message,
                MessageType=kind,
                SigningAlgorithm=self._signing,
            )
            return _bytes(said, "Signature")

    def make(self) -> bytes:
        """Make the key, which never leaves KMS, and give it the alias that the URI names."""
        uri = self._uri
        if uri.alias is None:
            raise ConfigError(
                "AWS names a key itself, so that none can be made by a key's ARN: write an alias's "
                f"(`…:alias/NAME`), or make one with `{self._command()}`, and write its ARN"
            )
        try:
            self.public_key()
        except _MissingError:
            pass
        else:
            raise ConfigError(f"there is a key at `{uri.shown}` already; nothing was made")
        client = self._connect(_ONCE)
        try:
            with self._asking("CreateKey"):
                said = client.create_key(
                    KeySpec=self._spec, KeyUsage="SIGN_VERIFY", Description="Signs for Remit."
                )
                made = str(said["KeyMetadata"]["KeyId"])
                account = str(said["KeyMetadata"]["AWSAccountId"])
        except UnavailableError as error:
            look = shlex.join(["aws", "kms", "list-keys", "--region", uri.region])
            raise UnavailableError(
                f"{error}; a key may have been made all the same: see `{look}`"
            ) from error
        try:
            if account != uri.account:
                raise ConfigError(f"this machine's AWS account is not `{uri.account}`")
            with self._asking("CreateAlias"):
                client.create_alias(AliasName=uri.alias, TargetKeyId=made)
        except RemitError as error:
            end = ["aws", "kms", "schedule-key-deletion", "--region", uri.region, "--key-id", made]
            raise type(error)(
                f"{error}; a key was made without its name: end it with `{shlex.join(end)}`"
            ) from error
        return self._seen()

    def _seen(self) -> bytes:
        """Return the public half as soon as the key is known by its alias."""
        end = time.monotonic() + SEEN_SECONDS
        while True:
            try:
                return self.public_key()
            except _MissingError as error:
                if time.monotonic() > end:
                    raise UnavailableError(
                        f"the key was made, and is not seen yet at `{self._uri.shown}`: "
                        "look with `remit doctor` in a minute"
                    ) from error
            time.sleep(_LOOK_SECONDS)

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._connect(_OFTEN)
        return self._client

    def _connect(self, how: Config) -> Any:
        """Make a client. It contacts AWS at most to learn who Remit is."""
        session = Session()
        session.register_component("data_loader", _DESCRIPTIONS)
        with self._asking("Sign"):
            return session.create_client(
                "kms",
                region_name=self._uri.region,
                endpoint_url=self._uri.endpoint,
                config=how,
            )

    def _public(self, said: Mapping[str, Any]) -> bytes:
        if self._signing not in said.get("SigningAlgorithms", ()):
            raise self._other_kind()
        return _bytes(said, "PublicKey")

    def _other_kind(self) -> ConfigError:
        return ConfigError(
            f"the key at `{self._uri.shown}` is of another kind than is wanted here "
            f"(`{self._algorithm}`): make one with `{self._command()}`"
        )

    @contextmanager
    def _asking(self, operation: str) -> Iterator[None]:
        """Say whatever the library raises in our words."""
        try:
            yield
        except ClientError as error:
            raise self._refused(operation, _code(error)) from None  # its text is AWS's
        except _NO_LOGIN as error:
            raise self._no_login(type(error).__name__) from None
        except BotoCoreError as error:
            raise UnavailableError(
                f"KMS at `{self._where}` cannot be asked ({type(error).__name__}): look at the "
                "way there"
            ) from None
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ):  # the library's, of odd answers
            raise UnavailableError("KMS answered with something else") from None

    def _refused(self, operation: str, code: str) -> RemitError:
        if code in _LOGIN:
            return self._no_login(code)
        if code == _BARE:
            self._client = None
        if code in {"InvalidKeyUsageException", "UnsupportedOperationException"}:
            return self._other_kind()
        if code == "NotFoundException":
            how = "`remit keys make`, or with " if self._uri.alias is not None else ""
            return _MissingError(
                f"there is no key at `{self._uri.shown}`: make it with {how}`{self._command()}`"
            )
        kind, words = _SAID.get(code, (UnavailableError, "KMS failed at `{operation}`: `{code}`"))
        look = ["describe-key", "--region", self._uri.region, "--key-id", self._uri.arn]
        return kind(
            words.format(
                code=code,
                operation=operation,
                shown=self._uri.shown,
                look=shlex.join(["aws", "kms", *look]),
                region=self._uri.region,
                spec=self._spec,
            )
        )

    def _no_login(self, why: str) -> UnavailableError:
        self._client = None  # whatever is mended meanwhile is looked for anew
        return UnavailableError(
            f"KMS at `{self._where}` knows Remit by no credentials (`{why}`): give this machine a "
            "role, and see that `aws sts get-caller-identity` and its clock are right"
        )

    @property
    def _where(self) -> str:
        return self._uri.endpoint or self._uri.region

    def _command(self) -> str:
        words = ["aws", "kms", "create-key", "--region", self._uri.region]
        return shlex.join([*words, "--key-usage", "SIGN_VERIFY", "--key-spec", self._spec])


class _MissingError(ConfigError):
    """There is no such key."""


def _code(error: ClientError) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    safe = code.isascii() and code.isalnum() and len(code) <= _LONGEST_CODE
    return code if safe else "without a code"


def _bytes(said: Mapping[str, Any], name: str) -> bytes:
    value = said[name]
    if not isinstance(value, bytes):
        raise TypeError(name)
    return value
