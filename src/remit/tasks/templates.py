"""Templates: an administrator's upper bounds on mandates, one TOML file each.

They are versioned with the policy bundle: a template's digest is the SHA-256 of its file's bytes,
as the bundle's manifest has it. Reading is strict; see docs/mandates.md for every key.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import PurePosixPath

from remit.model.errors import ConfigError
from remit.model.label import Confidentiality
from remit.model.mandate import Budget, Template
from remit.model.subject import Environment
from remit.tasks.keys import MAX_CALLS, MAX_SECONDS, MAX_TEXT, Keys

MAX_TEMPLATE_BYTES = 262_144


def parse_template(path: str, data: bytes) -> Template:
    """Read one template from its file's bytes; its name is ``name``, or else the file's stem.

    Raises:
        ConfigError: the file is not a template; says the file, the key and the rule.
    """
    if len(data) > MAX_TEMPLATE_BYTES:
        raise ConfigError(f"{path}: a template holds at most {MAX_TEMPLATE_BYTES} bytes")
    try:
        table = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    keys = Keys(table, ConfigError, path)
    keys.only(
        "name",
        "purpose",
        "environments",
        "data_ceiling",
        "egress",
        "expires_seconds",
        "budget",
        "capability",
    )
    if "name" not in table:
        keys = Keys({**table, "name": PurePosixPath(path).stem}, ConfigError, path)
    name = keys.name("name")
    purpose = keys.line("purpose", limit=MAX_TEXT)
    capabilities = keys.capabilities("capability", references=True)
    if name is None or purpose is None:
        keys.fail("purpose", "is missing: say in a sentence what tasks of this template are for")
    if not capabilities:
        keys.fail("capability", "is missing: a template that allows nothing is of no use")
    environments = keys.environments("environments")
    if environments is not None and not environments:
        keys.fail("environments", "is empty: a template that may touch no environment is of no use")
    ceiling = keys.ceiling("data_ceiling")
    return Template(
        name=name,
        purpose=purpose,
        capabilities=capabilities,
        environments=(Environment.DEV,) if environments is None else environments,
        data_ceiling=Confidentiality.INTERNAL if ceiling is None else ceiling,
        egress=keys.hosts("egress") or (),
        expires_seconds=keys.whole("expires_seconds", most=MAX_SECONDS) or 1800,
        budget=_budget(keys, {capability.target for capability in capabilities}),
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )


def parse_templates(files: Mapping[str, bytes]) -> Mapping[str, Template]:
    """Read the templates of a bundle's files (path to bytes), by name.

    Raises:
        ConfigError: one of them is not a template, or two have the same name.
    """
    found: dict[str, Template] = {}
    origin: dict[str, str] = {}
    for path in sorted(files):
        template = parse_template(path, files[path])
        if template.name in found:
            raise ConfigError(
                f"{path}: `name` `{template.name}` is taken by {origin[template.name]}"
            )
        found[template.name] = template
        origin[template.name] = path
    return found


def withdrawn(template: Template) -> Template:
    """Return what bounds a task whose template is gone: nothing is allowed any more."""
    return Template(name=template.name, purpose=template.purpose, capabilities=(), environments=())


def _budget(keys: Keys, targets: set[str]) -> Budget:
    budget = keys.below("budget", keys.data.get("budget", {}))
    budget.only("calls", "seconds", "amount")
    amount = budget.below("amount", budget.data.get("amount", {}))
    counted, bare = amount.amounts()
    for name in bare:
        amount.fail(name, "says a limit but not what it counts: give `limit`, `tool`, `argument`")
    for limit in counted:
        if limit.target not in targets:
            amount.fail(limit.name, f"counts `{limit.target}`, which no capability here names")
    return Budget(
        calls=budget.whole("calls", most=MAX_CALLS),
        seconds=budget.seconds("seconds"),
        amounts=counted,
    )
