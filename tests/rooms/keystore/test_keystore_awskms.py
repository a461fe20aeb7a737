"""Keys in a KMS: what it answers, what it does not, and what is said then."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from kms_server import ACCESS_KEY, ACCOUNT, SECRET_KEY, Kms, log_in

from remit import plugins
from remit.evidence.ports import CheckpointKey
from remit.keystore.awskms import KmsKey
from remit.keystore.kept import KeptKey
from remit.keystore.ports import LONGEST_BYTES, Algorithm
from remit.model.errors import ConfigError, RemitError, UnavailableError
from remit.testing.key_suite import CheckpointKeySuite, KeyProviderSuite, Shelf

NAME = "`[keys] log`"


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    log_in(monkeypatch)
    with Kms().running() as server:
        yield server


class Cabinet:
    """A shelf of the suite's: the account."""

    algorithms = tuple(Algorithm)
    secrets = (ACCESS_KEY, SECRET_KEY)

    def __init__(self, kms: Kms) -> None:
        self._kms = kms

    def key(self, name: str, algorithm: Algorithm) -> KmsKey:
        return KmsKey(self._kms.uri(name), algorithm)

    def take_away(self) -> None:
        self._kms.away = True

    def put_back(self) -> None:
        self._kms.away = False


class TestProvider(KeyProviderSuite):
    @pytest.fixture
    def shelf(self, kms: Kms) -> Shelf:
        return Cabinet(kms)


class TestLogsKey(CheckpointKeySuite):
    @pytest.fixture
    def key(self, kms: Kms) -> CheckpointKey:
        KmsKey(kms.uri(), Algorithm.ED25519).make()
        return kept(kms.uri())


def kept(uri: str, algorithm: Algorithm = Algorithm.ED25519) -> KeptKey:
    return KeptKey.open(KmsKey(uri, algorithm), algorithm, NAME)


def made(kms: Kms, algorithm: Algorithm = Algorithm.ED25519) -> KmsKey:
    key = KmsKey(kms.uri(), algorithm)
    key.make()
    kms.calls.clear()
    kms.asked.clear()
    return key


def test_the_scheme_is_a_kind_of_ours(kms: Kms):
    key, step = plugins.load_key(NAME, kms.uri(), Algorithm.ED25519)
    assert isinstance(key, KmsKey)
    assert step.body["kind"] == "awskms"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    def absent(_: EntryPoint) -> Any:
        raise ModuleNotFoundError("no", name="botocore")

    monkeypatch.setattr(EntryPoint, "load", absent)
    uri = "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/remit-log"
    with pytest.raises(ConfigError, match=r"\(`botocore`\): install `remit\[aws\]`"):
        plugins.load_key(NAME, uri, Algorithm.ED25519)


def test_a_signature_costs_one_question(kms: Kms):
    key = made(kms)
    key.sign(b"x")
    key.sign(b"y")
    assert kms.calls == ["Sign", "Sign"]


def test_ed25519_takes_the_message_itself_and_p_256_a_digest_of_a_long_one(kms: Kms):
    made(kms).sign(b"x" * LONGEST_BYTES)
    assert (kms.asked[-1]["MessageType"], kms.asked[-1]["SigningAlgorithm"]) == (
        "RAW",
        "ED25519_SHA_512",
    )
    key = KmsKey(kms.uri("ca"), Algorithm.ES256)
    key.make()
    for message, kind in ((b"x", "RAW"), (b"", "DIGEST"), (b"x" * 4097, "DIGEST")):
        key.sign(message)
        assert kms.asked[-1]["MessageType"] == kind
        assert kms.asked[-1]["SigningAlgorithm"] == "ECDSA_SHA_256"


@pytest.mark.parametrize("message", [b"", b"x" * (LONGEST_BYTES + 1)])
def test_ed25519_at_a_kms_signs_no_part_of_a_message(kms: Kms, message: bytes):
    key = made(kms)
    with pytest.raises(ConfigError, match="1 to 4096 bytes"):
        key.sign(message)
    assert kms.calls == []


def test_an_alias_that_was_moved_to_another_key_signs_nothing(kms: Kms):
    made(kms)
    key = kept(kms.uri())
    other = KmsKey(kms.uri("other"), Algorithm.ED25519)
    other.make()
    before = kms.aliases["alias/remit-log"]
    kms.aliases["alias/remit-log"] = kms.aliases["alias/other"]
    with pytest.raises(UnavailableError, match="does not verify"):
        key.sign(b"x")
    kms.aliases["alias/remit-log"] = before
    key.check()


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("NotFoundException", ConfigError, "make it with `remit keys make`, or with `aws kms"),
        ("AccessDeniedException", ConfigError, "allow it in the key's policy"),
        ("DisabledException", UnavailableError, "`aws kms describe-key"),
        ("KMSInvalidStateException", UnavailableError, "waits for its end"),
        ("InvalidKeyUsageException", ConfigError, "--key-spec ECC_NIST_EDWARDS25519`"),
        ("UnsupportedOperationException", ConfigError, "of another kind"),
        ("ThrottlingException", UnavailableError, "quota"),
        ("LimitExceededException", UnavailableError, "quota"),
        ("ValidationException", ConfigError, "does `eu-central-1` have"),
        ("ExpiredTokenException", UnavailableError, "give this machine a role"),
        ("UnrecognizedClientException", UnavailableError, "give this machine a role"),
        ("InvalidSignatureException", UnavailableError, "its clock"),
        ("KMSInternalException", UnavailableError, "`KMSInternalException`"),
        ("KeyUnavailableException", UnavailableError, "KMS failed at `Sign`"),
        ("403", UnavailableError, "and at what stands between"),
        (f"a {SECRET_KEY}\nb", UnavailableError, "without a code"),
        ("A" * 100, UnavailableError, "without a code"),
    ],
)
def test_what_kms_refuses_says_what_to_do_and_nothing_of_its_text(
    kms: Kms, code: str, kind: type[RemitError], says: str
):
    key = made(kms)
    kms.refuses["Sign"] = (code, 400)
    with pytest.raises(kind) as refused:
        key.sign(b"x")
    said = str(refused.value)
    assert says in said
    assert "\n" not in said
    assert ACCESS_KEY not in said
    assert SECRET_KEY not in said
    assert refused.value.__cause__ is None, "the cause holds AWS's text"
    kms.refuses.clear()
    assert key.sign(b"x")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"Signature": 1}', b"\xff"])
def test_an_answer_that_is_none_is_no_signature(kms: Kms, body: bytes):
    key = made(kms)
    kms.body = body
    with pytest.raises(UnavailableError):
        key.sign(b"x")
    kms.body = None
    assert key.sign(b"x")


def test_a_kms_that_hangs_is_given_up_and_comes_back_by_itself(kms: Kms):
    made(kms)
    key = kept(kms.uri())
    kms.hangs = True
    with pytest.raises(UnavailableError, match=r"ReadTimeoutError|nothing has answered"):
        key.sign(b"x")
    assert key.trouble is not None
    kms.hangs = False
    kms.goes_on.set()
    assert key.sign(b"x")
    assert key.trouble is None


def test_a_connection_that_was_kept_and_is_over_costs_one_more_try(kms: Kms):
    key = made(kms)
    key.sign(b"x")
    kms.away = True
    kms.goes_on.set()
    with pytest.raises(UnavailableError, match="look at the way there"):
        key.sign(b"x")
    kms.away = False
    assert key.sign(b"x")


def test_without_credentials_it_says_so_and_looks_for_them_anew(
    kms: Kms, monkeypatch: pytest.MonkeyPatch
):
    made(kms)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    key = KmsKey(kms.uri(), Algorithm.ED25519)
    with pytest.raises(UnavailableError, match=r"no credentials \(`NoCredentialsError`\)"):
        key.sign(b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    with pytest.raises(UnavailableError, match="PartialCredentialsError"):
        key.sign(b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    assert key.sign(b"x")


def test_a_profile_that_is_not_there_is_a_matter_of_credentials(
    kms: Kms, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UnavailableError, match="ProfileNotFound"):
        KmsKey(kms.uri(), Algorithm.ED25519).sign(b"x")


def test_credentials_that_were_exchanged_are_taken_up(kms: Kms, monkeypatch: pytest.MonkeyPatch):
    key = made(kms)
    kms.access_key = "AKIATHENEXTKEY"
    with pytest.raises(UnavailableError, match="UnrecognizedClientException"):
        key.sign(b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATHENEXTKEY")
    assert key.sign(b"x")


def test_endpoints_and_proxies_of_the_environment_are_not_taken(
    kms: Kms, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert made(kms).sign(b"x")


def test_a_key_of_aws_s_own_naming_is_not_made(kms: Kms):
    uri = kms.uri().replace("alias/remit-log", "key/1234abcd-12ab-34cd-56ef-1234567890ab")
    key = KmsKey(uri, Algorithm.ED25519)
    with pytest.raises(
        ConfigError, match=r"`aws kms create-key .*EDWARDS25519`, and write its ARN"
    ):
        key.make()
    with pytest.raises(ConfigError, match="make it with `aws kms create-key"):
        key.public_key()
    assert kms.keys == {}


def test_a_key_by_its_own_arn_signs(kms: Kms):
    made(kms)
    (number,) = kms.keys
    assert kept(kms.uri().replace("alias/remit-log", f"key/{number}")).public_bytes == (
        kept(kms.uri()).public_bytes
    )


def test_a_key_that_was_made_is_waited_for_until_it_is_seen(kms: Kms):
    key = KmsKey(kms.uri(), Algorithm.ED25519)
    kms.late = 2
    assert key.make() == key.public_key()
    assert len(kms.keys) == 1


def test_a_key_that_could_not_be_named_is_told_of(kms: Kms):
    kms.refuses["CreateAlias"] = ("AccessDeniedException", 400)
    with pytest.raises(ConfigError, match=r"kms:CreateAlias.*schedule-key-deletion") as refused:
        KmsKey(kms.uri(), Algorithm.ED25519).make()
    (number,) = kms.keys
    assert number in str(refused.value)


def test_a_key_in_another_account_is_not_named(kms: Kms):
    kms.account = "999999999999"
    with pytest.raises(ConfigError, match=f"is not `{ACCOUNT}`.*schedule-key-deletion"):
        KmsKey(kms.uri(), Algorithm.ED25519).make()
    assert kms.aliases == {}


def test_a_key_is_asked_for_once_though_the_answer_was_lost(kms: Kms):
    kms.refuses["CreateKey"] = ("KMSInternalException", 500)
    with pytest.raises(UnavailableError, match=r"may have been made all the same.*list-keys"):
        KmsKey(kms.uri(), Algorithm.ED25519).make()
    assert kms.calls.count("CreateKey") == 1


def test_who_may_not_look_makes_nothing(kms: Kms):
    kms.refuses["GetPublicKey"] = ("AccessDeniedException", 400)
    with pytest.raises(ConfigError, match="kms:GetPublicKey"):
        KmsKey(kms.uri(), Algorithm.ED25519).make()
    assert kms.keys == {}
