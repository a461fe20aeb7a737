"""Cedar's own handwritten cases, answered by the way in which we ask Cedar."""

from __future__ import annotations

import json

from external import cases

from remit.policy import cedar


def test_every_handwritten_case_of_cedar_is_answered_as_cedar_says():
    asked = 0
    for case in json.loads(cases("cedar/handwritten.json").read_text()):
        policies, templates = cedar.parse(case["policies_text"])
        assert not templates
        handle = cedar.handle(policies)
        schema = cedar.schema(case["schema_text"])
        entities = json.dumps(case["entities_json"])
        if case["shouldValidate"]:
            assert cedar.validate(case["policies_text"], schema) == [], case["_path"]
        for request in case["requests"]:
            checked = request.get("validateRequest", True)
            question = {
                "principal": request["principal"],
                "action": request["action"],
                "resource": request["resource"],
                "context": json.dumps(request["context"]),
            }
            # The entities are read with the schema in either way; ours are text as well.
            answer = cedar.ask(
                handle,
                question,
                entities if checked else cedar.Entities.from_json_str(entities, schema),
                schema if checked else None,
            )
            where = f"{case['_path']}: {request['description']}"
            assert answer.allowed == (request["decision"] == "allow"), (where, answer)
            assert sorted(answer.determining) == sorted(request["reason"]), where
            asked += 1
    assert asked >= 74


def test_a_policy_of_cedars_survives_being_rendered():
    for case in json.loads(cases("cedar/handwritten.json").read_text()):
        policies, _ = cedar.parse(case["policies_text"])
        for policy in policies.values():
            again, _ = cedar.parse(cedar.render(policy))
            assert again["policy0"] == policy
