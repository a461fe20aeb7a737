"""The promises of the design, and the tests that hold each: read both ways by test_promises.py.

``held`` names test files below ``tests/``, whole (a promise is rarely held by one case), or one
test of a file that is about more, as ``file::test``.
``missing`` says in a sentence what of the promise is not built yet; it also stands in
docs/limitations.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """One promise of the design (section 5), or one that a standard makes for us."""

    id: str
    source: str
    sentence: str
    held: tuple[str, ...]
    missing: str | None = None


PROMISES = (
    Promise(
        "P1",
        "design 5.1",
        "Deny by default: unknown, broken or late is denied, with a reason.",
        (
            "story/test_story_call.py",
            "story/test_story_perform.py",
            "rooms/policy/test_policy_engine.py",
            "external/test_policy_cedar_cases.py",
            "external/test_identity_spiffe.py",
            "external/test_identity_wycheproof.py",
            "external/test_identity_dpop_rfc9449.py",
            "rooms/identity/test_identity_dpop.py",
            "rooms/tasks/test_tasks_possession.py",
            "crash/test_crash_authority.py",
            "rooms/api/test_api_hostile.py::test_only_an_operator_changes_anything",
            "rooms/app/test_app_config.py::test_a_wrong_configuration_is_refused_and_says_where",
        ),
    ),
    Promise(
        "P2",
        "design 5.2",
        "Nothing acts before its decision and lease are durable; nobody hears success before.",
        (
            "story/test_story_call.py",
            "story/test_story_perform.py",
            "crash/test_crash_authority.py",
            "crash/test_journal_kill.py",
            "crash/test_journal_disk.py",
            "crash/test_journal_hung.py",
            "story/test_story_hung.py",
            "rooms/gateway/test_gateway_sessions.py",
            "rooms/gateway/test_gateway_upstreams.py",
            "rooms/gateway/test_gateway_egress.py",
        ),
    ),
    Promise(
        "P3",
        "design 5.3",
        "Authority only narrows, by construction.",
        (
            "properties/test_tasks_properties.py",
            "properties/test_tasks_trees.py",
            "rooms/tasks/test_tasks_bounds.py",
            "rooms/tasks/test_tasks_delegating.py",
            "rooms/api/test_api_delegations.py",
            "rooms/proof/test_proof_delegated.py",
            "story/test_story_delegating.py",
        ),
    ),
    Promise(
        "P4",
        "design 5.4",
        "No credential outlives its task.",
        (
            "story/test_story_call.py",
            "story/test_story_perform.py",
            "crash/test_leases_killed.py",
            "crash/test_brokers_killed.py",
            "crash/test_remit_killed.py",
            "rooms/credentials/test_credentials_leases.py",
            "rooms/credentials/test_credentials_census.py",
            "rooms/credentials/test_credentials_holders.py",
            "rooms/app/test_app_brokers.py",
            "real/brokers/test_openbao.py",
            "real/brokers/test_openbao_database.py",
            "real/brokers/test_postgres.py",
            "real/brokers/test_postgres_process.py",
            "real/brokers/test_ssh.py",
            "real/brokers/test_x509.py",
            "real/brokers/test_certificates_story.py",
            "rooms/credentials/test_certificates.py",
            "rooms/credentials/test_openbao_broker.py",
            "rooms/credentials/test_openbao_hostile.py",
            "real/brokers/test_jwt.py",
            "real/brokers/test_oauth.py",
            "rooms/credentials/test_jwt_broker.py",
            "rooms/credentials/test_oauth_broker.py",
            "story/test_story_races.py",
            "story/test_story_egress.py",
            "rooms/gateway/test_gateway_credentials.py",
            "rooms/gateway/test_gateway_certificates.py",
        ),
    ),
    Promise(
        "P5",
        "design 5.5",
        "The agent never holds a secret; client tokens are never passed through.",
        (
            "real/test_workload_api.py",
            "story/test_story_replay.py",
            "rooms/gateway/test_gateway_forwarding.py",
            "rooms/gateway/test_gateway_leaks.py",
            "rooms/gateway/test_gateway_leaks_mcp.py",
            "rooms/gateway/test_gateway_egress.py",
            "rooms/app/test_app_leaks.py",
            "story/test_story_egress.py",
            "external/test_gateway_leak_recall.py",
            "rooms/tasks/test_tasks_desk.py",
            "rooms/app/test_app_logs.py",
            "rooms/credentials/test_sealed_keys.py",
            "rooms/cli/test_cli_credential.py",
            "rooms/api/test_api_sealed.py",
            "story/test_story_sealed.py",
            "real/test_no_secret.py",
        ),
    ),
    Promise(
        "P6",
        "design 5.6",
        "The bytes that were evaluated are the bytes that are forwarded.",
        (
            "rooms/gateway/test_gateway_hostile.py",
            "external/test_gateway_json_parsing.py",
            "properties/test_gateway_json_properties.py",
            "rooms/gateway/test_gateway_shapes.py",
            "rooms/gateway/test_gateway_forwarding.py",
            "rooms/gateway/test_gateway_egress_matching.py",
            "rooms/gateway/test_gateway_credentials.py",
        ),
    ),
    Promise(
        "P7",
        "design 5.7",
        "Policy sees every argument.",
        (
            "rooms/policy/test_policy_arguments.py",
            "rooms/tasks/test_tasks_bounds.py",
            "external/test_sql_tables.py",
            "rooms/gateway/test_gateway_egress_matching.py",
        ),
    ),
    Promise(
        "P8",
        "design 5.8",
        "An approval is not a permit: one exact call, once, by an eligible other person.",
        (
            "story/test_story_call.py",
            "rooms/approvals/test_approvals_desk.py",
            "story/test_story_sealing.py",
            "properties/test_tasks_approvals_once.py",
            "rooms/api/test_api_control.py::test_an_agent_sees_its_own_tasks_and_nothing_else",
            "rooms/api/test_peers.py",
            "rooms/api/test_api_orphans.py",
            "rooms/cli/test_run_agent_killed.py",
        ),
    ),
    Promise(
        "P9",
        "design 5.9",
        "A call has exactly one outcome.",
        (
            "story/test_story_call.py",
            "story/test_story_perform.py",
            "rooms/evidence/test_evidence_recovery.py",
            "crash/test_crash_authority.py",
            "crash/test_remit_killed.py",
            "story/test_story_hung.py",
        ),
    ),
    Promise(
        "P10",
        "design 5.10",
        "Evidence is checked by an outsider, offline, without a secret.",
        (
            "rooms/proof/test_proof_pack.py",
            "rooms/proof/test_proof_verify.py",
            "rooms/proof/test_proof_mandate_key.py",
            "rooms/evidence/test_evidence_log_key.py",
            "rooms/cli/test_cli_verify.py",
            "rooms/app/test_app_sealing.py",
            "rooms/proof/test_proof_relying_party.py",
            "external/test_proof_merkle_rfc6962.py",
            "external/test_proof_signed_note.py",
            "properties/test_proof_merkle_properties.py",
            "external/test_proof_jcs_rfc8785.py",
            "rooms/app/test_app_bundles.py",
        ),
    ),
    Promise(
        "P11",
        "design 5.11",
        "What is sensitive is kept apart, and can be erased.",
        (
            "rooms/evidence/test_evidence_ledger.py",
            "conformance/test_evidence_store.py",
            "story/test_story_sealing.py::test_what_an_approval_would_do_is_erased_with_its_task_and_stands_in_no_file",
        ),
    ),
    Promise(
        "P12",
        "design 5.12",
        "Tool descriptions and hints are claims: pinned, withheld when changed.",
        ("rooms/policy/test_policy_catalogue.py", "external/test_policy_tool_swaps.py"),
    ),
    Promise(
        "P13",
        "design 5.13",
        "Revocation is quick and it cascades.",
        (
            "story/test_story_call.py",
            "story/test_story_perform.py",
            "story/test_story_redecided.py",
            "story/test_story_delegating.py",
            "rooms/tasks/test_tasks_delegating.py",
            "crash/test_delegation_killed.py",
            "rooms/identity/test_identity_registry.py",
        ),
        missing="CAEP",
    ),
    Promise(
        "P14",
        "design 5.14",
        "A control claimed is a control evidenced.",
        ("rooms/policy/test_policy_bundle.py",),
        missing="coverage of frameworks",
    ),
)
