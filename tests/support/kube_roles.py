"""What a cluster's administrator gives Remit beyond its page, or takes away for a while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from kube_apiserver import NAMESPACE, RBAC, Cluster


@contextlib.contextmanager
def making_tokens_of(cluster: Cluster, account: str) -> Iterator[None]:
    """Let Remit make tokens of one more account, as the page's role does for `deployer`."""
    rules = [
        {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "resourceNames": [account],
            "verbs": ["create"],
        }
    ]
    what = {"subresource": "token", "name": account}
    cluster.apply(*_bound(f"remit-{account}", rules))
    try:
        _wait_for(cluster, "create", "serviceaccounts", allowed=True, **what)
        yield
    finally:
        for kind in ("rolebindings", "roles"):
            path = f"{RBAC}/namespaces/{NAMESPACE}/{kind}/remit-{account}"
            assert cluster.ask("DELETE", path).status == 200
        _wait_for(cluster, "create", "serviceaccounts", allowed=False, **what)


@contextlib.contextmanager
def without(cluster: Cluster, verb: str) -> Iterator[None]:
    """Take a verb on secrets from Remit's role while the block runs."""
    path = f"{RBAC}/namespaces/{NAMESPACE}/roles/remit"
    rules = cluster.ask("GET", path).body["rules"]
    fewer = [
        {**each, "verbs": [v for v in each["verbs"] if v != verb]}
        if each["resources"] == ["secrets"]
        else each
        for each in rules
    ]
    with _changed(cluster, path, rules=fewer, verb=verb, resource="secrets"):
        yield


@contextlib.contextmanager
def without_reviews(cluster: Cluster) -> Iterator[None]:
    """Take the reviews of tokens from Remit's cluster role while the block runs."""
    path = f"{RBAC}/clusterroles/remit-reviews"
    what = {"verb": "create", "resource": "tokenreviews", "group": "authentication.k8s.io"}
    with _changed(cluster, path, rules=[], **what):
        yield


@contextlib.contextmanager
def _changed(
    cluster: Cluster, path: str, *, rules: Any, verb: str, resource: str, **attributes: str
) -> Iterator[None]:
    """Give a role other rules while the block runs; a verb on a resource is what that takes away."""
    before = cluster.ask("GET", path).body["rules"]
    assert rules != before
    assert cluster.ask("PATCH", path, {"rules": rules}).status == 200
    try:
        _wait_for(cluster, verb, resource, allowed=False, **attributes)
        yield
    finally:
        assert cluster.ask("PATCH", path, {"rules": before}).status == 200
        _wait_for(cluster, verb, resource, allowed=True, **attributes)


def _wait_for(
    cluster: Cluster, verb: str, resource: str, *, allowed: bool, **attributes: str
) -> None:
    """Wait until the API server's authorizer knows of a change of roles."""
    asked = {"namespace": NAMESPACE, "verb": verb, "resource": resource, **attributes}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": "system:serviceaccount:remit:remit", "resourceAttributes": asked},
    }
    path, deadline = "/apis/authorization.k8s.io/v1/subjectaccessreviews", time.monotonic() + 30
    while cluster.ask("POST", path, body).body["status"]["allowed"] is not allowed:
        assert time.monotonic() < deadline, asked
        time.sleep(0.05)


def _bound(name: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a role in the agents' namespace, and its binding to Remit."""
    group = "rbac.authorization.k8s.io"
    where = {"name": name, "namespace": NAMESPACE}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": where, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": where,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "remit", "namespace": "remit"}],
        },
    ]
