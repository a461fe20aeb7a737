"""The Kubernetes broker at a real kube-apiserver, set up as its page says."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kube_apiserver import NAMESPACE, SHOP, Cluster
from kube_roles import making_tokens_of, without, without_reviews
from kube_target import AskedAgain, KubeTarget, past
from lossy import lossy
from processes import ROOT

from remit.credentials.brokers.kubernetes import api
from remit.model.errors import BrokerError, NotMintedError
from remit.model.lease import LeaseState
from remit.testing.broker_suite import BrokerSuite, Lab

VAULT, STORE = "https://vault.example", "https://store.example"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
ROLES = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles"


class TestKubernetes(BrokerSuite):
    @pytest.fixture
    def target(self, target: KubeTarget) -> KubeTarget:
        target.broker = AskedAgain(target.broker)
        return target


def test_the_server_is_the_pinned_one_and_lets_nobody_in_unnamed(cluster: Cluster):
    said = cluster.ask("GET", "/version").body["gitVersion"]
    assert f"k8s.io/kubernetes {said}\n" in (ROOT / ".ci/kubernetes/go.mod").read_text()
    assert cluster.ask("GET", "/version", token="").status == 401
    assert cluster.uses("e.y.j") == 401


# --- what is minted ---


async def test_the_secret_says_which_lease_task_and_workload_it_is_for_and_holds_nothing(
    target: KubeTarget,
):
    order = Lab(target).order()
    await target.broker.issue(order)
    secret = target.cluster.secrets()[order.lease.handle]
    assert secret["metadata"]["annotations"] == {
        "remit.dev/lease": order.lease.id,
        "remit.dev/task": order.lease.task,
        "remit.dev/workload": order.workload,
    }
    assert not {"data", "stringData"} & set(secret)
    assert secret["immutable"] is True


async def test_a_token_may_what_its_account_may_and_that_is_not_to_read_secrets(
    target: KubeTarget,
):
    _, credential = await Lab(target).issue()
    token = credential.values["token"]
    assert target.cluster.uses(token) == 200
    for path in (SECRETS, f"/api/v1/namespaces/{SHOP}/secrets", "/api/v1/pods"):
        assert target.cluster.ask("GET", path, token=token).status == 403


async def test_ten_minutes_is_the_least_and_a_longer_lease_gets_no_longer_token(
    target: KubeTarget,
):
    short, long = Lab(target, seconds=60).order(), Lab(target, seconds=1800).order()
    least, most = await target.broker.issue(short), await target.broker.issue(long)
    assert least.expires_at is not None
    assert most.expires_at is not None
    assert timedelta(seconds=590) < least.expires_at - datetime.now(UTC) <= timedelta(seconds=600)
    assert most.expires_at <= long.lease.expires_at


async def test_a_token_is_good_for_a_minute_longer_than_it_says(target: KubeTarget):
    """The API server's leeway, seen with a minted token whose claims the cluster's own key moved."""
    cluster = target.cluster
    lease, credential = await Lab(target).issue()
    now = int(datetime.now(UTC).timestamp())
    past_it, long_past = (
        cluster.resigned(
            credential.values["token"], iat=now - 900, nbf=now - 900, exp=now - seconds
        )
        for seconds in (30, 90)
    )
    assert cluster.uses(past_it) == 200
    assert cluster.uses(long_past) == 401
    await target.broker.revoke(lease, credential.keep)


async def test_a_token_is_for_its_audience_alone_and_reviewed_for_that(target: KubeTarget):
    order = Lab(target).order(grant={"service_account": "deployer", "audiences": [VAULT]})
    credential = await target.broker.issue(order)
    token = credential.values["token"]
    assert not await target.accepts(credential), "the API server is not its audience"
    assert not target.cluster.reviews(token)
    assert not target.cluster.reviews(token, [STORE])
    assert (await target.broker.revoke(order.lease, credential.keep)).confirmed
    assert not target.cluster.reviews(token, [VAULT])


# --- its end ---


async def test_an_end_is_not_confirmed_while_the_api_server_remembers_the_token(
    target: KubeTarget,
):
    lab = Lab(target)
    lease, credential = await lab.issue()
    assert await target.accepts(credential)
    answer = await target.broker.revoke(lease, credential.keep)
    assert not answer.confirmed
    assert answer.until is not None
    assert lease.handle not in target.cluster.secrets()
    assert await target.accepts(credential), "it is true"
    census = await target.broker.census([lease.moved(LeaseState.SETTLING)])
    assert census.unasked == {lease.handle}
    await past(answer.until)
    assert (await target.broker.revoke(lease, credential.keep)).confirmed
    assert not await target.accepts(credential)


async def test_what_is_remembered_of_one_audience_is_not_missed_by_asking_for_all(
    target: KubeTarget,
):
    grant = {"service_account": "deployer", "audiences": [VAULT, STORE]}
    order = Lab(target).order(grant=grant)
    credential = await target.broker.issue(order)
    token = credential.values["token"]
    assert target.cluster.reviews(token, [STORE]), "as the store asks"
    answer = await target.broker.revoke(order.lease, credential.keep)
    assert not answer.confirmed
    assert answer.until is not None
    assert target.cluster.reviews(token, [STORE]), "it is true"
    assert not target.cluster.reviews(token, [VAULT, STORE]), "and of all at once nothing is known"
    await past(answer.until)
    assert (await target.broker.revoke(order.lease, credential.keep)).confirmed
    assert not target.cluster.reviews(token, [STORE])


async def test_a_secret_that_somebody_else_deletes_ends_the_token_and_is_no_error(
    target: KubeTarget,
):
    lease, credential = await Lab(target).issue()
    assert target.cluster.ask("DELETE", f"{SECRETS}/{lease.handle}").status == 200
    assert (await target.broker.census([lease])).alive == frozenset()
    assert (await target.broker.revoke(lease, credential.keep)).confirmed
    assert not await target.accepts(credential)


async def test_another_secret_of_the_same_name_does_not_bring_the_token_back(target: KubeTarget):
    lease, credential = await Lab(target).issue()
    assert (await target.broker.revoke(lease, credential.keep)).confirmed
    target.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": lease.handle, "namespace": NAMESPACE},
        }
    )
    assert not await target.accepts(credential)
    await target.broker.revoke(lease, credential.keep)
    assert lease.handle not in target.cluster.secrets()


async def test_a_secret_that_a_finalizer_keeps_is_never_called_gone(target: KubeTarget):
    """Its token is refused a minute after the deletion, whatever keeps the secret."""
    lease, credential = await Lab(target).issue()
    path = f"{SECRETS}/{lease.handle}"
    kept: dict[str, Any] = {"metadata": {"finalizers": ["remit.test/kept"]}}
    assert target.cluster.ask("PATCH", path, kept).status == 200
    with pytest.raises(BrokerError, match="finalizers"):
        await target.broker.revoke(lease, credential.keep)
    assert (await target.broker.census([lease])).alive == {lease.handle}
    assert await target.accepts(credential), "it is true"
    async with asyncio.timeout(100):
        while await target.accepts(credential):  # noqa: ASYNC110 - the server tells no event
            await asyncio.sleep(1)
    with pytest.raises(BrokerError, match="finalizers"):
        await target.broker.revoke(lease, credential.keep)
    assert target.cluster.ask("PATCH", path, {"metadata": {"finalizers": None}}).status == 200
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


# --- lists, losses, restarts ---


async def test_after_a_restart_a_lost_mint_is_found_by_list_and_name(target: KubeTarget):
    order = Lab(target).order()
    credential = await target.broker.issue(order)
    after = target.another()
    assert (await after.census([])).alive == {order.lease.handle}
    assert (await after.revoke(order.lease.moved(LeaseState.SETTLING), None)).confirmed
    assert not await target.accepts(credential)


async def test_a_list_in_pages_is_read_to_its_end_and_names_no_others(
    target: KubeTarget, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(api, "_PAGE", 3)
    lab = Lab(target)
    handles = {(await lab.issue())[0].handle for _ in range(7)}
    labels = {"remit.dev/installation": "remit-ffffffff"}
    foreign = {"name": "other", "namespace": NAMESPACE, "labels": labels}
    target.cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": foreign})
    assert (await target.broker.census([])).alive == handles
    assert set(target.cluster.secrets()) == {*handles, "other"}


async def test_an_answer_that_is_lost_on_the_way_is_ended_by_name(target: KubeTarget):
    async with lossy(target.cluster.port) as relay:
        url = f"https://127.0.0.1:{relay.port}"
        between = target.another(url=url, timeout_seconds=1.0)
        assert (await between.census([])).alive == frozenset(), "a connection that stands"
        order = Lab(target).order()
        relay.losing = True
        with pytest.raises(BrokerError) as raised:
            await between.issue(order)
        assert not isinstance(raised.value, NotMintedError)
        assert relay.lost.is_set()
    assert order.lease.handle in target.cluster.secrets()
    assert (await target.broker.revoke(order.lease, None)).confirmed
    assert order.lease.handle not in target.cluster.secrets()


async def test_an_api_server_that_is_killed_and_starts_again_has_kept_the_lease_and_ends_it(
    target: KubeTarget,
):
    lease, credential = await Lab(target).issue()
    assert await target.accepts(credential)
    target.cluster.crash()
    try:
        with pytest.raises(BrokerError):
            await target.broker.revoke(lease, credential.keep)
        with pytest.raises(NotMintedError):
            await target.broker.issue(Lab(target).order())
    finally:
        await asyncio.to_thread(target.cluster.start)
    assert (await target.broker.census([])).alive == {lease.handle}
    answer = await target.broker.revoke(lease, credential.keep)
    assert answer.confirmed, "what it remembered of the token went with it"
    assert not await target.accepts(credential)


async def test_a_cluster_whose_store_hangs_confirms_nothing(target: KubeTarget):
    lab = Lab(target)
    lease, credential = await lab.issue()
    target.cluster.stop_etcd()
    try:
        with pytest.raises(BrokerError):
            await target.broker.revoke(lease, credential.keep)
        with pytest.raises(BrokerError) as raised:
            await target.broker.issue(lab.order())
        assert not isinstance(raised.value, NotMintedError)
    finally:
        target.cluster.go_on()
    async with asyncio.timeout(60):
        while not await ended(target, lease, credential.keep):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.5)
    assert not await target.accepts(credential)


async def ended(target: KubeTarget, lease: Any, keep: str | None) -> bool:
    try:
        return (await target.broker.revoke(lease, keep)).confirmed  # type: ignore[no-any-return]
    except BrokerError:
        return False


# --- RBAC ---


@pytest.mark.parametrize(("account", "said"), [("viewer", "role"), ("named", "service_account")])
async def test_a_refused_token_leaves_no_secret(target: KubeTarget, account: str, said: str):
    """`viewer` is there and no role names it; `named` is in a role, and not there."""
    given = {"name": "viewer", "namespace": NAMESPACE}
    viewer = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": given}
    target.cluster.apply(viewer, anew=False)
    with (
        making_tokens_of(target.cluster, "named"),
        pytest.raises(NotMintedError, match=said),
    ):
        await target.broker.issue(Lab(target).order(grant={"service_account": account}))
    assert not target.cluster.secrets()


async def test_an_account_that_is_made_anew_does_not_bring_its_tokens_back(target: KubeTarget):
    cluster = target.cluster
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "passing", "namespace": NAMESPACE},
    }
    cluster.apply(account)
    order = Lab(target).order(grant={"service_account": "passing"})
    with making_tokens_of(cluster, "passing"):
        credential = await target.broker.issue(order)
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/passing"
    assert cluster.ask("DELETE", path).status == 200
    cluster.apply(account)
    assert not cluster.reviews(credential.values["token"])
    assert (await target.broker.revoke(order.lease, credential.keep)).confirmed


@pytest.mark.parametrize("verb", ["create", "get", "list", "delete"])
async def test_a_denial_is_no_absence(target: KubeTarget, verb: str):
    lab = Lab(target)
    lease, credential = await lab.issue()
    with without(target.cluster, verb):
        if verb == "create":
            with pytest.raises(NotMintedError, match="403 `Forbidden`: look at the role"):
                await target.broker.issue(lab.order())
        elif verb == "list":
            with pytest.raises(BrokerError, match="403"):
                await target.broker.census([])
        else:
            with pytest.raises(BrokerError, match="403"):
                await target.broker.revoke(lease, credential.keep)
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


async def test_without_the_review_nothing_is_confirmed(target: KubeTarget):
    lease, credential = await Lab(target).issue()
    with without_reviews(target.cluster), pytest.raises(BrokerError, match="403"):
        await target.broker.revoke(lease, credential.keep)
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


async def test_a_rotated_token_of_remits_own_is_read_anew(target: KubeTarget):
    lease, credential = await Lab(target).issue()
    good = target.token.read_text()
    target.token.write_text(target.cluster.resigned(good.strip(), exp=1_700_000_000))
    with pytest.raises(BrokerError, match="401 `Unauthorized`: look at remit's own token"):
        await target.broker.revoke(lease, credential.keep)
    target.token.write_text(target.cluster.token_of("remit", "remit"))
    assert (await target.broker.revoke(lease, credential.keep)).confirmed


async def test_a_server_whose_certificate_nobody_vouched_for_is_told_nothing(target: KubeTarget):
    unsure = target.another(ca_file=None)
    order = Lab(target).order()
    with pytest.raises(BrokerError):
        await unsure.issue(order)
    assert order.lease.handle not in target.cluster.secrets()


def test_nothing_of_remits_own_is_wider_than_the_page_says(cluster: Cluster, tmp_path: Path):
    """What Remit's token may do beyond what everybody with a name may."""
    token = cluster.remits_token(tmp_path).read_text().strip()
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": NAMESPACE},
    }
    answer = cluster.ask(
        "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, token=token
    )
    rules = {
        (verb, resource, *each.get("resourceNames", ()))
        for each in answer.body["status"]["resourceRules"]
        for verb in each["verbs"]
        for resource in each["resources"]
    }
    assert {each for each in rules if not each[1].startswith("selfsubject")} == {
        ("create", "secrets"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("delete", "secrets"),
        ("create", "serviceaccounts/token", "deployer"),
        ("create", "tokenreviews"),
    }
    assert cluster.ask("GET", "/api/v1/namespaces/remit/secrets", token=token).status == 403
