"""The page of HTTP APIs: its configuration is read, and its template bounds its operations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nginx import server_certificate

from remit.app.config import load
from remit.app.options import catalogued, services
from remit.gateway.egress import headers
from remit.gateway.egress.flight import HOLD_BYTES
from remit.gateway.egress.operations import Request
from remit.tasks.templates import parse_templates

PAGE = (Path(__file__).resolve().parents[2] / "docs/egress.md").read_text()
DOCUMENT = """\
openapi: 3.0.3
paths:
  /orders/{order}:
    get: { operationId: orders/get }
"""


@pytest.fixture
def shown() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_configuration_and_the_template_on_the_page_are_read(tmp_path: Path, shown: list[str]):
    configuration, template = shown
    (tmp_path / "remit.toml").write_text(configuration)
    (tmp_path / "payments.yaml").write_text(DOCUMENT)
    server_certificate(tmp_path)
    (tmp_path / "server.crt").rename(tmp_path / "corp-ca.pem")
    loaded = load(tmp_path / "remit.toml")
    (service,) = services(loaded).values()
    assert service.ca_file == tmp_path / "corp-ca.pem"
    assert service.tls is not None
    assert service.tls.check_hostname
    assert {each.name for each in service.operations.all} == {"orders.get", "refund"}
    found = service.operations.match(
        Request(
            method="POST",
            path=b"/orders/1234/refunds",
            body=b'{"amount":5}',
            media="application/json",
        )
    )
    assert found.arguments == {"order": "1234", "amount": 5}
    (parsed,) = parse_templates({"templates/refund.toml": template.encode()}).values()
    offered = {f"payments/{each.name}" for each in service.operations.all}
    assert {capability.target for capability in parsed.capabilities} == offered
    known = catalogued(loaded)["payments"]
    assert known.tools.keys() == {"orders.get", "refund"}
    assert known.environment in parsed.environments
    said = [tool.confidentiality for tool in known.tools.values()]
    assert all(each is None or each <= parsed.data_ceiling for each in said)


def test_the_page_names_every_header_that_goes_up():
    for name in headers._UP:
        assert f"`{name.decode()}`" in PAGE.lower(), name


def test_the_page_names_the_limits_that_hold():
    assert f"{HOLD_BYTES // 1024} KiB" in PAGE
