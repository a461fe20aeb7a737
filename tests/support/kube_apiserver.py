"""A real kube-apiserver for tests, over a real etcd: TLS, RBAC, nobody anonymous; gone afterwards.

What docs/brokers/kubernetes.md tells an operator to apply is read from there and applied. No
controller runs beside it: nothing of what a lease needs is a controller's.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jwt
from joserfc.jwk import ECKey
from nginx import server_certificate
from processes import ROOT, Started, free_port, listens, running

PARTS = ROOT / ".cache" / "real" / "kubernetes"
PAGE = ROOT / "docs" / "brokers" / "kubernetes.md"
ISSUER = "https://cluster.example"
NAMESPACE = "agents"
SHOP = "shop"
"""Where the agents work: their power comes from a role binding there."""
START_SECONDS = 90.0

_CORE = "/api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
_GROUPS = {"v1": _CORE, "rbac.authorization.k8s.io/v1": RBAC}

_WORK: tuple[dict[str, Any], ...] = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}},
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "pods", "namespace": SHOP},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "deployer", "namespace": SHOP},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": NAMESPACE}],
    },
)


def program(name: str) -> Path:
    """Return a program that .ci/kubernetes-setup built; a test without it fails, and never skips."""
    found = PARTS / name
    assert found.exists(), f"{name} is not built: run .ci/kubernetes-setup (half an hour)"
    return found


@dataclass(frozen=True)
class Answer:
    """One answer of the API server, read as JSON."""

    status: int
    body: Any


@dataclass
class Cluster:
    """One API server and its etcd, and an administrator with a client certificate."""

    folder: Path
    port: int = field(default_factory=free_port)
    etcd_port: int = field(default_factory=free_port)
    etcd: Started | None = None
    server: Started | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _starts: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "server.crt"

    # --- its life ---

    def begin(self) -> None:
        """Start both with keys of their own, and wait until the API server is ready."""
        server_certificate(self.folder)
        _person(self.folder, "admin", "system:masters")
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(self.folder / "accounts.key", key)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / "accounts.pub").write_bytes(public)
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, free_port()))
        command: list[str | Path] = [
            program("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
            "--unsafe-no-fsync",
        ]
        log = self.folder / "etcd.log"
        self.etcd = self._stack.enter_context(running(command, log=log, port=self.etcd_port))
        self.start()

    def start(self) -> None:
        """Start the API server, over what etcd holds."""
        self._starts += 1
        command: list[str | Path] = [
            program("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/24",
            f"--tls-cert-file={self.folder / 'server.crt'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            f"--client-ca-file={self.ca}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            "--profiling=false",
        ]
        log = self.folder / f"kube-apiserver-{self._starts}.log"
        self.server = self._stack.enter_context(running(command, log=log))
        self.server.wait_for(self._ready, "kube-apiserver", START_SECONDS)

    def _ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return listens(self.port) and self.ask("GET", "/readyz").status == 200
        return False

    def end(self) -> None:
        self.go_on()
        self._stack.close()

    def crash(self) -> None:
        """Kill the API server: what it remembered is gone, what etcd holds is not."""
        assert self.server is not None
        self.server.kill()

    def stop(self) -> None:
        """Let the API server answer nothing any more: what it is sent waits."""
        self._signal(self.server, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let both answer again, what they were sent meanwhile too."""
        for each in (self.server, self.etcd):
            self._signal(each, signal.SIGCONT)

    def stop_etcd(self) -> None:
        """Let the API server's store answer nothing any more."""
        self._signal(self.etcd, signal.SIGSTOP)

    @staticmethod
    def _signal(process: Started | None, number: signal.Signals) -> None:
        if process is not None and process.popen.poll() is None:
            process.popen.send_signal(number)

    # --- what an administrator does ---

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask as the administrator, or with a bearer's token and no certificate."""
        pair = (str(self.folder / "admin.crt"), str(self.folder / "admin.key"))
        who: dict[str, Any] = {"cert": pair}
        given = {"Accept": "application/json", **(headers or {})}
        if token is not None:
            who, given = {}, {**given, "Authorization": f"Bearer {token}"}
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                method,
                self.url + path,
                data=None if body is None else json.dumps(body),
                headers={**given, "Content-Type": kind},
                verify=str(self.ca),
                timeout=30,
                **who,
            )
        try:
            said = answer.json()
        except ValueError:
            said = answer.text
        return Answer(answer.status_code, said)

    def apply(self, *objects: Mapping[str, Any], anew: bool = True) -> None:
        """Create each object, as `kubectl create` does; one that is there stays if not ``anew``."""
        for each in objects:
            place = _GROUPS[each["apiVersion"]]
            if (namespace := each["metadata"].get("namespace")) is not None:
                place += f"/namespaces/{namespace}"
            answer = self.ask("POST", f"{place}/{each['kind'].lower()}s", each)
            assert answer.status == 201 or (answer.status == 409 and not anew), (each, answer)

    def lay(self) -> None:
        """Do what docs/brokers/kubernetes.md tells an operator to do, and give the agents work."""
        self.apply(*on_the_page(), *_WORK)

    def clear(self) -> None:
        """Delete every secret of the agents' namespace, whatever keeps it."""
        for name in self.secrets():
            path = f"{_CORE}/namespaces/{NAMESPACE}/secrets/{name}"
            self.ask("DELETE", path)
            self.ask("PATCH", path, {"metadata": {"finalizers": None}})
        assert not self.secrets()

    def token_of(self, account: str, namespace: str, **spec: Any) -> str:
        """Return a token of a service account, as `kubectl create token` does."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"{_CORE}/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = self.ask("POST", path, body)
        assert answer.status == 201, answer
        return str(answer.body["status"]["token"])

    def remits_token(self, folder: Path) -> Path:
        """Write a token of Remit's own into a file that nobody else may read."""
        file = folder / f"kube-{secrets.token_hex(4)}.token"
        file.touch(mode=0o600)
        file.write_text(self.token_of("remit", "remit") + "\n")
        return file

    def secrets(self, label: str = "") -> dict[str, Any]:
        """Return every secret of the agents' namespace by its name, with what is in it."""
        answer = self.ask("GET", f"{_CORE}/namespaces/{NAMESPACE}/secrets?labelSelector={label}")
        assert answer.status == 200, answer
        return {each["metadata"]["name"]: each for each in answer.body["items"]}

    def reviews(self, token: str, audiences: list[str] | None = None) -> bool:
        """Ask whether a token is good, as a resource server with a role for it asks."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences or []},
        }
        answer = self.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
        assert answer.status == 201, answer
        return answer.body["status"].get("authenticated") is True

    def uses(self, token: str) -> int:
        """Use a token for real: list the shop's pods. Return the status."""
        return self.ask("GET", f"{_CORE}/namespaces/{SHOP}/pods", token=token).status

    def resigned(self, token: str, **claims: Any) -> str:
        """Return a token with other claims, signed by the cluster's own key."""
        key = ECKey.import_key((self.folder / "accounts.key").read_text())
        old = jwt.decode(token, key)
        return jwt.encode(old.header, {**old.claims, **claims}, key)


def on_the_page() -> list[dict[str, Any]]:
    """Return what the page tells an operator to apply."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [each for block in blocks for each in yaml.safe_load_all(block)]


@contextlib.contextmanager
def kube_apiserver() -> Iterator[Cluster]:
    """Run a cluster's API server while the block runs, with the page's objects in it."""
    with tempfile.TemporaryDirectory(prefix="remit-kube-") as folder:
        made = Cluster(Path(folder))
        try:
            made.begin()
            made.lay()
            yield made
        finally:
            made.end()


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _person(folder: Path, name: str, group: str) -> None:
    """Write a certificate for a person in a group, signed with the server's own, and its key."""
    authority = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    signer = load_pem_private_key((folder / "server.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    words = {NameOID.ORGANIZATION_NAME: group, NameOID.COMMON_NAME: name}
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(*each) for each in words.items()]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write_key(folder / f"{name}.key", key)
    (folder / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
