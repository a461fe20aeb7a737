"""`remit doctor`: look at everything that could be wrong, and say what to do."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from rich.text import Text

from remit.app.config import Loaded
from remit.app.policy_folders import bundle_folders
from remit.cli.client import ControlClient, UnreachableError
from remit.cli.common import DEFAULTS, Common, Exit
from remit.cli.drawing import printable, put
from remit.model.errors import RemitError

Finding = tuple[bool | None, str, str]
"""Whether it is fine, what was looked at, and what to do or what was seen. None: judge yourself."""


def doctor(*, common: Common = DEFAULTS) -> int:
    """Check the machine, the configuration and a running authority, and say what to do."""
    seen: list[Finding] = []
    for finding in _findings(common):
        seen.append(finding)
        if not common.json:
            # One by one: checking a policy takes a moment, and an upstream may take longer.
            _say(finding)
    fine = all(ok is not False for ok, _, _ in seen)
    common.emit(
        {"ok": fine, "checks": [{"ok": ok, "what": w, "said": s} for ok, w, s in seen]},
        Text("all is well" if fine else "mend what is WRONG, then run this again"),
    )
    return Exit.DONE if fine else Exit.REFUSED


def _findings(common: Common) -> Iterator[Finding]:
    yield _system()
    try:
        loaded = common.loaded()
    except RemitError as error:
        yield False, "configuration", str(error)
        return
    yield True, "configuration", str(loaded.source or "embedded defaults")
    for look in (
        *(_state, _own_keys, _tables, _bundle, _upstreams, _services, _brokers, _leaks),
        _running,
    ):
        yield from _guarded(look, loaded)


def _say(finding: Finding) -> None:
    ok, what, said = finding
    mark = {
        True: Text("ok    ", style="green"),
        False: Text("WRONG ", style="bold red"),
        None: Text("note  ", style="yellow"),
    }[ok]
    put(mark + Text(f"{printable(what)}: {printable(said)}"))


def _guarded(look: Callable[[Loaded], Iterator[Finding]], loaded: Loaded) -> Iterator[Finding]:
    try:
        yield from look(loaded)
    except (RemitError, OSError) as error:
        yield False, look.__name__.strip("_"), str(error)


def _system() -> Finding:
    version = f"Python {platform.python_version()} on {platform.system()} {platform.release()}"
    if sys.platform != "linux":
        return False, "system", f"{version}: `remit run` and attestation need Linux"
    return True, "system", version


def _state(loaded: Loaded) -> Iterator[Finding]:
    folder = loaded.state
    if not folder.exists():
        yield True, "state", f"{folder} will be made by `remit up`"
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        yield False, "state", f"{folder} is open to others: chmod 700 {folder}"
    else:
        yield True, "state", f"{folder} is yours alone"
    free = shutil.disk_usage(folder).free
    enough = 1024**3
    megabytes = free // 1024**2
    yield (
        (free > enough),
        "disk",
        f"{megabytes} MB free" + ("" if free > enough else ": a full disk stops every call"),
    )


def _own_keys(loaded: Loaded) -> Iterator[Finding]:
    """See that a key which is kept elsewhere is there."""
    for which in loaded.keys_elsewhere:
        from remit.app.own_keys import look_at_key  # noqa: PLC0415 - slow, and not always

        yield True, f"key {which}", f"{look_at_key(loaded, which)}, kept elsewhere"


def _tables(loaded: Loaded) -> Iterator[Finding]:
    """Hold the working tables against their seal; while an authority runs, it writes to them."""
    database = loaded.state / "remit.db"
    if not database.exists():
        return
    from remit.storage.sqlite.lock import is_held  # noqa: PLC0415 - as below
    from remit.storage.sqlite.state import look, refusal  # noqa: PLC0415 - slow, and not always

    if is_held(database.with_name("remit.db.lock")):
        return
    faults = look(database)
    if faults:
        yield False, "working tables", refusal(faults)
    else:
        yield True, "working tables", "agents, tasks, approvals and leases are as they were left"


def _bundle(loaded: Loaded) -> Iterator[Finding]:
    from remit.app.policy_tools import check_bundle  # noqa: PLC0415 - slow, and not the first check

    folder, templates = bundle_folders(loaded)
    if templates is not None and not templates.is_dir():
        yield (
            False,
            "templates",
            f"`[policy] templates` names {templates}, which is no folder: make it",
        )
        return
    report = check_bundle(None, loaded)
    own = loaded.config.policy.bundle is not None
    if not report["ok"]:
        yield False, "policy", "; ".join(report["findings"])
        return
    yield True, "policy", f"{report['policies']} policies in {folder}"
    if report["templates"]:
        yield True, "templates", f"{report['templates']} in force"
    else:
        where = templates or (folder / "templates" if own else None)
        what = (
            f"write one in {where}" if where else 'name a folder: [policy] templates = "templates"'
        )
        yield False, "templates", f"there is none, so no task can be opened: {what}"


def _upstreams(loaded: Loaded) -> Iterator[Finding]:
    if not loaded.config.upstreams and not loaded.config.services:
        said = "none is configured: add an [upstream.NAME] or a [service.NAME] to remit.toml"
        yield False, "upstreams", said
    for name, section in loaded.config.upstreams.items():
        if section.command:
            found = shutil.which(section.command[0])
            said = found or f"`{section.command[0]}` is not on the PATH: install it"
            yield found is not None, f"upstream {name}", said
        elif section.sql is not None:
            there = find_spec("sqlglot") is not None
            said = f"a database, {len(section.sql.tables)} tables"
            yield there, f"upstream {name}", said if there else "install `remit[sql]`"
        else:
            yield True, f"upstream {name}", str(section.url)


def _services(loaded: Loaded) -> Iterator[Finding]:
    if not loaded.config.services:
        return
    from remit.app.options import services  # noqa: PLC0415 - as above

    for name, service in services(loaded).items():
        yield True, f"service {name}", f"{service.url}, {len(service.operations.all)} operations"


def _leaks(loaded: Loaded) -> Iterator[Finding]:
    if loaded.config.leaks.rules:
        found = importlib.util.find_spec("kingfisher_sdk") is not None
        said = "others' credentials are looked for" if found else "run pip install 'remit[leaks]'"
        yield found, "leak rules", said


def _brokers(loaded: Loaded) -> Iterator[Finding]:
    if not loaded.config.brokers:
        return
    from remit.plugins import require_broker  # noqa: PLC0415 - as above

    for name, table in loaded.config.brokers.items():
        try:
            yield True, f"broker {name}", require_broker(name, table)
        except RemitError as error:
            yield False, f"broker {name}", str(error)


def _running(loaded: Loaded) -> Iterator[Finding]:
    client = ControlClient(loaded.control_socket)
    try:
        standing = client.get("status")
    except UnreachableError:
        yield _port(loaded)
        yield from _stopped(loaded)
        return
    for name, said in standing["upstreams"].items():
        yield said == "ready", f"running upstream {name}", said
    for name, said in standing["services"].items():
        yield said == "ready", f"running service {name}", said
    log = standing["log"]
    yield True, "running", f"{standing['url']}, {log['size']} records in {log['origin']}"
    yield True, "log key", log["vkey"]
    yield from _sealed(client.get("credentials"))
    yield from _targets(client.get("leases", "targets")["items"])


def _stopped(loaded: Loaded) -> Iterator[Finding]:
    """Say what only a running authority finds out, and what the last one left to be taken back."""
    if brokers := ", ".join(f"`{name}`" for name in loaded.config.brokers):
        said = f"nobody asked the targets of {brokers}: only a running authority does"
        yield None, "targets", f"{said}: start it with `remit up`, then run this again"
    database = loaded.state / "remit.db"
    if not database.exists():
        return
    from remit.storage.sqlite.leases import left_open  # noqa: PLC0415 - slow, and not always
    from remit.storage.sqlite.lock import is_held  # noqa: PLC0415 - as above

    if is_held(database.with_name("remit.db.lock")):
        return  # it is starting, or on its way down
    if left := left_open(database):
        targets = ", ".join(sorted({f"`{lease.target}`" for lease in left}))
        last = max(lease.expires_at for lease in left)
        said = f"{len(left)} at {targets} are not over, the last until {last:%Y-%m-%d %H:%M:%S} UTC"
        yield None, "leases", f"{said}: what they hold may be alive until `remit up` takes it back"


def _targets(items: list[dict[str, Any]]) -> Iterator[Finding]:
    """Say whether each broker can use its target, and what widens every lease there."""
    for target in items:
        what = f"target of broker {target['broker']}"
        yield target["trouble"] is None, what, target["trouble"] or "answers"
        for finding in target["findings"]:
            yield False if finding["stops"] else None, what, finding["said"]


def _sealed(found: dict[str, Any]) -> Iterator[Finding]:
    """Say how old each long-lived key is: that is all there is to judge of one."""
    for key in found["items"]:
        said, limit = f"last rotated {key['age_days']} days ago", key["max_age_days"]
        if key["aged"]:
            said += (
                f", more than {limit:g}: make a new one at its service, then run "
                f"`remit credential rotate {key['name']}`"
            )
        yield not key["aged"], f"sealed key {key['name']}", said
    for name in found["missing"]:
        yield False, f"sealed key {name}", f"not sealed yet: run `remit credential seal {name}`"


def _port(loaded: Loaded) -> Finding:
    try:
        socket.create_connection((loaded.host, loaded.port), timeout=1).close()
    except OSError:
        taken = False
    else:
        taken = True
    if taken:
        said = f"port {loaded.port} is taken by something else: change `listen`"
        return False, "running", said
    return True, "running", "not yet: start it with `remit up`"
