"""Builds small, realistic evidence packs: one task of one agent, told as a list of steps.

A dishonest authority is a story told otherwise (change ``steps``); a dishonest exporter is a pack
put together otherwise (``dataclasses.replace`` on the pack, then ``encode_pack``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey

from remit.model.record import Json, Record
from remit.proof.checkpoint import Checkpoint, cosign, sign_checkpoint, with_signatures
from remit.proof.encoding import canonical, digest, encode_record
from remit.proof.jws import Jwk
from remit.proof.merkle import Tree, leaf_hash
from remit.proof.note import COSIGNATURE_V1, ED25519, Signer
from remit.proof.pack import Pack, PackedPayload, PackedRecord, encode_pack, manifest_digest

TASK = "task_1"
ORIGIN = "corp.example/log"
WORKLOAD = "spiffe://corp.example/agent/refunds"
OPENED_AT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
EXPIRES_AT = OPENED_AT + timedelta(minutes=30)
PROMPT = "Refund order 1234, please."
PROMPT_SALT = bytes(range(16))
LOG = Signer(ORIGIN, ED25519, b"\x01" * 32)
WITNESS = Signer("witness.example/w1", COSIGNATURE_V1, b"\x02" * 32)
STRANGER = Signer(ORIGIN, ED25519, b"\x03" * 32)
MANDATE_KEY = ECKey.generate_key("P-256", auto_kid=False)
BUNDLE = {
    "policies/refunds.cedar": 'permit (principal, action, resource) when { context.now != "" };\n',
    "templates/refund.toml": 'purpose = "Refund one order"\n',
}
BUNDLE_DIGEST = manifest_digest(BUNDLE)


@dataclass
class Told:
    """One step as a story tells it, before it is a record."""

    kind: str
    body: dict[str, Json] = field(default_factory=dict)
    call: str | None = None
    payloads: dict[str, bytes] = field(default_factory=dict)
    task: str | None = TASK
    parents: tuple[str, ...] | None = None
    at: datetime | None = None
    id: str | None = None


def jwk(key: ECKey = MANDATE_KEY, kid: str | None = None) -> Jwk:
    """Return the public half as a pack holds it, named by its thumbprint or else by ``kid``."""
    public = key.as_dict(private=False)
    name = key.thumbprint() if kid is None else kid
    return Jwk(kid=name, x=str(public["x"]), y=str(public["y"]))


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of the mandate."""
    prompt = hashlib.sha256(PROMPT_SALT + PROMPT.encode()).hexdigest()
    return {
        "iss": "spiffe://corp.example",
        "sub": WORKLOAD,
        "jti": TASK,
        "iat": int(OPENED_AT.timestamp()),
        "exp": int(EXPIRES_AT.timestamp()),
        "purpose": "Refund order 1234",
        "prompt": f"sha256:{prompt}",
        "template": "refund",
        "template_digest": digest(b"template"),
        "on_behalf_of": "user:ana@corp.example",
        "opened_by": "user:ana@corp.example",
        "capabilities": [
            {"action": "call_tool", "target": "payments/refund"},
            {"action": "read_resource", "target": "orders/*"},
        ],
        "budget": {"calls": 2},
        **changes,
    }


def sign(
    payload: Mapping[str, Any] | bytes,
    *,
    header: Mapping[str, Any] | None = None,
    key: ECKey = MANDATE_KEY,
) -> str:
    """Return a compact JWS."""
    whole = {"alg": "ES256", "kid": jwk().kid, "typ": "remit-mandate+jwt", **(header or {})}
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    return jws.serialize_compact(whole, data, key, registry=registry)


def lease(state: str, call: str | None = "call_1", **body: Json) -> Told:
    """Return one state of a lease."""
    whole: dict[str, Json] = {"lease": "lease_1", "broker": "db", "confirmed": None, **body}
    return Told(f"lease.{state}", whole, call=call)


def call(name: str, effect: str, ending: str, *between: Told) -> list[Told]:
    """Return the steps of one call, with ``between`` after the decision."""
    said: dict[str, Json] = {"decision": f"dec_{name}", "target": "payments/refund"}
    ended: dict[str, Json] = (
        {"code": "denied", "decision": said["decision"], "reason": "no"}
        if ending == "denied"
        else {"target": said["target"], "milliseconds": 12, "detail": None}
    )
    return [
        Told("call.identified", {"workload": WORKLOAD, "method": "jwt-svid"}, call=name),
        Told("call.admitted", {"mandate": "", "calls_spent": 0}, call=name),
        Told(
            "call.decided",
            {
                **said,
                "action": "call_tool",
                "effect": effect,
                "bundle": BUNDLE_DIGEST,
                "errors": [],
            },
            call=name,
            payloads={"facts": b'{"amount":12}'},
        ),
        *between,
        Told(f"call.{ending}", ended, call=name, payloads={"result": b'{"ok":true}'}),
    ]


@dataclass
class Tale:
    """A task's story, the mandate it ran under, and who signs what."""

    steps: list[Told]
    mandate: str = field(default_factory=lambda: sign(claims()))
    log: Signer = LOG
    witnesses: tuple[Signer, ...] = ()
    disclose: frozenset[str] = frozenset()
    bundles: dict[str, dict[str, str]] = field(default_factory=lambda: {BUNDLE_DIGEST: BUNDLE})
    keys: tuple[Jwk, ...] = field(default_factory=lambda: (jwk(),))

    def find(self, kind: str, occurrence: int = 0) -> Told:
        """Return a step by its kind."""
        return [step for step in self.steps if step.kind == kind][occurrence]

    def pack(self) -> Pack:
        """Write the story into a log and take the pack out of it."""
        leaves = self._leaves()
        tree = Tree(leaf_hash(data) for data, _, _ in leaves)
        checkpoint = Checkpoint(self.log.name, tree.size, tree.root())
        note = sign_checkpoint(checkpoint, self.log)
        note = with_signatures(
            note, [cosign(note, each, time=1_764_000_000) for each in self.witnesses]
        )
        return Pack(
            task=TASK,
            origin=self.log.name,
            vkey=self.log.verifier.vkey,
            witnesses=tuple(sorted(each.verifier.vkey for each in self.witnesses)),
            checkpoint=note,
            records=tuple(
                PackedRecord(index=index, data=data, proof=tuple(tree.inclusion(index)))
                for index, (data, record, _) in enumerate(leaves)
                if record.task is not None
            ),
            mandates=(self.mandate,),
            keys=self.keys,
            bundles=self.bundles,
            disclosed=tuple(
                sorted(
                    (
                        PackedPayload(record=record.id, name=name, salt=_salt(name), data=payload)
                        for _, record, step in leaves
                        for name, payload in step.payloads.items()
                        if name in self.disclose
                    ),
                    key=lambda each: (each.record, each.name),
                )
            ),
        )

    def data(self, change: Callable[[Pack], Pack] = lambda pack: pack) -> bytes:
        """Return the pack's bytes, after a last change to it."""
        return encode_pack(change(self.pack()))

    def _leaves(self) -> list[tuple[bytes, Record, Told]]:
        leaves = [_leaf(Told("authority.started", {"pid": 1}, task=None), "rec_x000", ())]
        last: dict[str, str] = {}
        hashes: list[bytes] = []
        for place, step in enumerate(self.steps):
            body = dict(step.body)
            if body.get("mandate") == "":
                body["mandate"] = digest(self.mandate.encode())
            if body.get("signed_mandate") == "":
                body["signed_mandate"] = self.mandate
            if step.kind == "task.sealed" and not body:
                chain = hashlib.sha256(b"".join(hashes)).hexdigest()
                body = {"records": len(hashes), "chain": f"sha256:{chain}"}
            parents = (last[step.call],) if step.call in last else ()
            if step.parents is not None:
                parents = step.parents
            name = step.id or f"rec_{place:03}"
            leaf = _leaf(replace(step, body=body), name, parents, OPENED_AT, place)
            leaves.append(leaf)
            hashes.append(leaf_hash(leaf[0]))
            if step.call is not None and step.kind.startswith("call."):
                last[step.call] = name
            if place % 3 == 0:
                leaves.append(_leaf(Told("tool.catalogued", {}, task=None), f"rec_x{place}", ()))
        return leaves


def tale(*, sealed: bool = True) -> Tale:
    """Return a story in which everything is as it should be."""
    opening: dict[str, Json] = {"mandate": "", "signed_mandate": "", "workload": WORKLOAD}
    opening |= {name: claims()[name] for name in ("template", "on_behalf_of", "prompt")}
    kept = json.dumps({"salt": PROMPT_SALT.hex(), "prompt": PROMPT}).encode()
    steps = [
        Told("task.opened", opening, payloads={"prompt": kept}),
        *call(
            "call_1", "permit", "succeeded", lease("reserved"), lease("issued"), lease("settling")
        ),
        lease("settled", confirmed=True),
        *call("call_2", "deny", "denied"),
        Told("approval.asked", {"approval": "apr_1", "decided_by": None}),
        *call("call_3", "approval_required", "denied"),
        Told("approval.approved", {"approval": "apr_1", "decided_by": "user:bo@corp.example"}),
        *call(
            "call_4",
            "permit",
            "succeeded",
            Told("approval.used", {"approval": "apr_1", "decided_by": "user:bo@corp.example"}),
        ),
    ]
    if sealed:
        steps += [Told("task.completed", {"mandate": "", "calls": 2}), Told("task.sealed")]
    return Tale(steps)


def edit(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Change a pack's document and write it down again, with the digest it then has."""
    document = json.loads(data)
    document.pop("digest")
    change(document)
    return canonical({**document, "digest": digest(canonical(document))})


def _salt(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


def _leaf(
    step: Told,
    name: str,
    parents: tuple[str, ...],
    start: datetime = OPENED_AT,
    place: int = 0,
) -> tuple[bytes, Record, Told]:
    record = Record(
        id=name,
        kind=step.kind,
        at=step.at or start + timedelta(seconds=place),
        body=step.body,
        payloads={
            payload: {"digest": digest(_salt(payload) + data), "bytes": len(data)}
            for payload, data in step.payloads.items()
        },
        task=step.task,
        call=step.call,
        parents=parents,
    )
    return encode_record(record), record, step
