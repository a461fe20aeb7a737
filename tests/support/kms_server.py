"""A KMS of our own on loopback, for what moto has not: Ed25519, its errors, and being away.

It follows AWS's published description of the service: what is asked is held against the model that
comes with ``botocore``, its limits included. Whoever asks with another access key is refused; that
signatures of requests hold is moto's to check.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.session import Session
from botocore.validate import ParamValidator
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

REGION = "eu-central-1"
ACCOUNT = "111122223333"
ACCESS_KEY = "AKIAREMITSOWNTESTS01"
SECRET_KEY = "m0st/secret+of+all+the+keys+in+this+house"
_MODEL = Session().get_service_model("kms")
_SPECS = {
    "ECC_NIST_P256": ("ECDSA_SHA_256",),
    "ECC_NIST_EDWARDS25519": ("ED25519_SHA_512", "ED25519_PH_SHA_512"),
}


def log_in(
    monkeypatch: pytest.MonkeyPatch, key: str = ACCESS_KEY, secret: str = SECRET_KEY
) -> None:
    """Let this process, and those that it starts, be known at AWS by a key in the environment."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


class RefusedError(Exception):
    """What is answered in place of an answer."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


class Kms(http.server.ThreadingHTTPServer):
    """The service. ``calls`` are the names of what was asked.

    ``away``: connections end without an answer. ``hangs``: until ``goes_on`` is set. ``refuses``:
    by operation, the code of an error and its status. ``late``: how often a new alias is not yet
    known. ``body``: what is answered with 200 in place of JSON.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.keys: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, str] = {}
        self.calls: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.account = ACCOUNT
        self.access_key = ACCESS_KEY
        self.refuses: dict[str, tuple[str, int]] = {}
        self.away = self.hangs = False
        self.goes_on = threading.Event()
        self.body: bytes | None = None
        self.late = 0
        self.model = _MODEL

    def uri(self, alias: str = "remit-log") -> str:
        return f"awskms://127.0.0.1:{self.server_port}/{self.arn(f'alias/{alias}')}"

    def arn(self, name: str) -> str:
        return f"arn:aws:kms:{REGION}:{ACCOUNT}:{name}"

    def serve(self, operation: str, given: dict[str, Any], authorization: str) -> dict[str, Any]:
        self.calls.append(operation)
        self.asked.append(given)
        if f"Credential={self.access_key}/" not in authorization or (
            f"/{REGION}/kms/aws4_request" not in authorization
        ):
            raise RefusedError("UnrecognizedClientException")
        shape = self.model.operation_model(operation).input_shape
        if ParamValidator().validate(given, shape).has_errors():
            raise RefusedError("ValidationException")
        if operation in self.refuses:
            raise RefusedError(*self.refuses[operation])
        return {
            "GetPublicKey": self.get_public_key,
            "Sign": self.sign,
            "CreateKey": self.create_key,
            "CreateAlias": self.create_alias,
        }[operation](given)

    def find(self, name: str) -> dict[str, Any]:
        name = name.removeprefix(self.arn(""))
        if name in self.aliases and self.late:
            self.late -= 1
            raise RefusedError("NotFoundException")
        found = self.keys.get(self.aliases.get(name, name.removeprefix("key/")))
        if found is None:
            raise RefusedError("NotFoundException")
        return found

    def get_public_key(self, given: dict[str, Any]) -> dict[str, Any]:
        key = self.find(given["KeyId"])
        public = (
            key["private"]
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        return {
            "KeyId": key["arn"],
            "KeySpec": key["spec"],
            "KeyUsage": "SIGN_VERIFY",
            "PublicKey": base64.b64encode(public).decode(),
            "SigningAlgorithms": list(_SPECS[key["spec"]]),
        }

    def sign(self, given: dict[str, Any]) -> dict[str, Any]:
        key, message = self.find(given["KeyId"]), given["Message"]
        digest = given.get("MessageType", "RAW") == "DIGEST"
        if given["SigningAlgorithm"] not in _SPECS[key["spec"]]:
            raise RefusedError("InvalidKeyUsageException")
        if key["spec"] == "ECC_NIST_P256":
            if digest and len(message) != 32:
                raise RefusedError("ValidationException")
            algorithm = Prehashed(hashes.SHA256()) if digest else hashes.SHA256()
            signature = key["private"].sign(message, ec.ECDSA(algorithm))
        elif digest or given["SigningAlgorithm"] != "ED25519_SHA_512":  # the other wants a digest
            raise RefusedError("ValidationException")
        else:
            signature = key["private"].sign(message)
        return {
            "KeyId": key["arn"],
            "Signature": base64.b64encode(signature).decode(),
            "SigningAlgorithm": given["SigningAlgorithm"],
        }

    def create_key(self, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("KeyUsage") != "SIGN_VERIFY" or given.get("KeySpec") not in _SPECS:
            raise RefusedError("ValidationException")
        made = str(uuid.uuid4())
        self.keys[made] = {
            "arn": f"arn:aws:kms:{REGION}:{self.account}:key/{made}",
            "spec": given["KeySpec"],
            "private": (
                ec.generate_private_key(ec.SECP256R1())
                if given["KeySpec"] == "ECC_NIST_P256"
                else Ed25519PrivateKey.generate()
            ),
        }
        return {
            "KeyMetadata": {
                "KeyId": made,
                "AWSAccountId": self.account,
                "Arn": self.keys[made]["arn"],
            }
        }

    def create_alias(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["AliasName"] in self.aliases:
            raise RefusedError("AlreadyExistsException")
        self.aliases[given["AliasName"]] = given["TargetKeyId"]
        return {}

    @contextlib.contextmanager
    def running(self) -> Iterator[Kms]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.goes_on.set()
            self.shutdown()
            self.server_close()
            thread.join()


class _Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Kms

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].removeprefix("TrentService.")
        if self.server.hangs:
            self.server.goes_on.wait()
        if self.server.away:
            self.close_connection = True
            return
        if "Message" in given:
            given["Message"] = base64.b64decode(given["Message"])
        status, said = 200, {}
        try:
            said = self.server.serve(operation, given, self.headers.get("Authorization", ""))
        except RefusedError as refused:
            status = refused.status
            said = {"__type": refused.code, "message": f"of {ACCESS_KEY}: {SECRET_KEY}"}
        body = json.dumps(said).encode() if self.server.body is None else self.server.body
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
