"""Every broker has a page, and every page a broker; a page and the index say what the code says."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import yaml
from aws import REVOKER, WEB
from openbao import REMIT_POLICY
from postgres_crm import ACCOUNT

from remit.app.brokers import Brokers, open_brokers
from remit.app.config import load, parse
from remit.credentials.brokers.aws import options as aws
from remit.credentials.brokers.github import options as github
from remit.credentials.brokers.jwt import broker as jwt
from remit.credentials.brokers.kubernetes import options as kubernetes
from remit.credentials.brokers.oauth import options as oauth
from remit.credentials.brokers.openbao import options as openbao
from remit.credentials.brokers.postgres import grants as postgres_grants
from remit.credentials.brokers.postgres import options as postgres
from remit.credentials.brokers.sealed import broker as sealed
from remit.credentials.brokers.ssh import broker as ssh
from remit.credentials.brokers.ssh import certificates as ssh_certificates
from remit.credentials.brokers.x509 import broker as x509
from remit.credentials.brokers.x509 import grant as x509_grant
from remit.credentials.port import Surroundings
from remit.credentials.sealed_keys import SealedKeys
from remit.credentials.sealing import KeySeal
from remit.model.lease import LeaseScope
from remit.testing.evidence import MemoryRecorder

ROOT = Path(__file__).resolve().parents[2]
PAGES = {page.stem: page for page in (ROOT / "docs/brokers").glob("*.md") if page.stem != "README"}
KINDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "remit.credential_brokers"
]
SETTINGS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "aws": (aws.Options, aws.Grant),
    "github": (github.Options, github.Grant),
    "jwt": (jwt.Options, jwt.Grant),
    "kubernetes": (kubernetes.Options, kubernetes.Grant),
    "oauth": (oauth.Options, oauth.Grant),
    "openbao": (openbao.Options, openbao.Grant),
    "postgres": (postgres.Options, postgres_grants.Grant),
    "sealed": (sealed.Options, sealed.Grant),
    "ssh": (ssh.Options, ssh_certificates.Grant),
    "x509": (x509.Options, x509_grant.Grant),
}
SECRETS = {
    "github": {"github-app.pem": "-----BEGIN RSA PRIVATE KEY-----"},
    "kubernetes": {"kube.token": "token"},
    "postgres": {"secrets/crm-db": "word"},
}


def blocks(kind: str, language: str) -> list[str]:
    text = PAGES[kind].read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def opened(kind: str, folder: Path) -> tuple[Brokers, SealedKeys]:
    """Make what the page's configuration says, with the files that it names."""
    (shown,) = blocks(kind, "toml")
    (folder / "remit.toml").write_text(shown)
    for name, text in SECRETS.get(kind, {}).items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)
    keys = SealedKeys(
        folder=folder / "sealed",
        seal=KeySeal(bytes(32)),
        recorder=MemoryRecorder(),
        clock=lambda: datetime.now(UTC),
    )
    surroundings = Surroundings(
        http=None,  # type: ignore[arg-type]
        clock=lambda: datetime.now(UTC),
        signer=None,  # type: ignore[arg-type]
        installation="remit-0a1b2c3d",
        state=folder,
        path=lambda text: folder / text,
        sealed=keys,
    )
    return open_brokers(load(folder / "remit.toml"), surroundings), keys


def test_every_kind_has_a_page_and_a_row_in_the_index():
    assert PAGES.keys() == KINDS.keys() == SETTINGS.keys()
    index = (ROOT / "docs/brokers/README.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \|", index, re.MULTILINE)
    assert rows == [(kind, kind) for kind in sorted(KINDS)]


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_the_configuration_on_a_page_is_one_that_remit_reads(kind: str):
    shown = [
        parse(tomllib.loads(block), kind) for block in blocks(kind, "toml") if "kind = " in block
    ]
    assert any(table["kind"] == kind for config in shown for table in config.brokers.values()), (
        "a page shows its own broker"
    )


@pytest.mark.parametrize("kind", sorted(PAGES))
async def test_the_configuration_on_a_page_makes_its_broker(tmp_path: Path, kind: str):
    made, _ = opened(kind, tmp_path)
    (broker,) = made.by_name.values()
    assert type(broker).__name__ == KINDS[kind].partition(":")[2]
    assert {binding.broker for binding in made.bindings.values()} == {broker}
    await made.close()


@pytest.mark.parametrize("kind", sorted(PAGES))
def test_every_option_and_grant_key_has_its_row(kind: str):
    rows = [
        line.split(" | ")[0] for line in PAGES[kind].read_text().splitlines() if line[:3] == "| `"
    ]
    named = {name for row in rows for name in re.findall(r"`(\w+)(?:`| = |\.)", row)}
    for struct in SETTINGS[kind]:
        keys = {field.encode_name for field in msgspec.structs.fields(struct)}
        # Of a secret it is enough to find the key of its file.
        assert {key for key in keys - named if f"{key}_file" not in keys} == set()


def test_the_policies_for_aws_are_those_that_the_broker_is_tested_with():
    trust, revoker = (json.loads(block) for block in blocks("aws", "json"))
    assert trust["Statement"] == [WEB]
    assert revoker == REVOKER


def test_the_roles_for_kubernetes_allow_what_the_broker_asks_and_nothing_else():
    allowed = {
        f"{verb} {resource}"
        for each in yaml.safe_load_all(blocks("kubernetes", "yaml")[0])
        for rule in each.get("rules", ())
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        "create secrets",
        "get secrets",
        "list secrets",
        "delete secrets",
        "create serviceaccounts/token",
        "create tokenreviews",
    }


def test_the_policy_for_openbao_is_the_one_that_the_broker_is_tested_with():
    assert REMIT_POLICY in blocks("openbao", "hcl")


def test_the_account_for_postgresql_is_the_one_that_the_broker_is_tested_with():
    assert ACCOUNT.strip() in [block.strip() for block in blocks("postgres", "sql")]


def test_the_sealed_key_on_the_page_is_watched_and_opened_for_one_call(tmp_path: Path):
    made, keys = opened("sealed", tmp_path)
    assert keys.limits["crm"].days == 30
    assert made.bindings["crm"].scope is LeaseScope.CALL
