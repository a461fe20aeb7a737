"""Runs a composed authority: its two listeners, the Workload API, and the work of every second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import timedelta
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from remit.api.answers import refused
from remit.api.bounded_http import BoundedHttp
from remit.api.peers import PeerHttp
from remit.app.compose import House, compose, utc_now
from remit.app.config import Loaded
from remit.app.control import control_app, rotate
from remit.app.disowned import end_disowned
from remit.closing import close_task, seal_ended
from remit.gateway.doorway import require_place
from remit.gateway.egress.front import PREFIX
from remit.gateway.scan import scan
from remit.gateway.wire import Head
from remit.identity.workload_api.server import listen
from remit.model.errors import ConfigError, RemitError
from remit.model.task import TaskState
from remit.spine import Authority

log = structlog.get_logger()

TICK_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 15.0
ROTATE_AFTER = timedelta(days=30)
STOP_SECONDS = 10.0
CONNECTIONS = 512
"""How many may be open at the control socket at once; ``limits.connections`` is the port's."""
_GATEWAY = ("/mcp/", "/.well-known/oauth-protected-resource/mcp/")
_MAX_SOCKET_PATH_BYTES = 107
_DISOWNED = "disowned"
"""Stands where a task's id would, for the round that ends what lost its delegator."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves signals to whoever runs the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    loaded: Loaded, *, accept_state: bool = False, forget_agents: bool = False
) -> AsyncIterator[House]:
    """Run an authority for as long as the block runs.

    Args:
        loaded: the configuration.
        accept_state: take working tables that were changed at rest as they stand, and record it.
        forget_agents: take no process that ran before for an agent's.

    Raises:
        ConfigError: something that the configuration names cannot be had (a port that is taken).
    """
    for path in (loaded.control_socket, loaded.workload_socket):
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"`{path}` is too long for a Unix socket ({_MAX_SOCKET_PATH_BYTES} bytes): "
                "choose a state folder with a shorter path"
            )
    _check_tls(loaded)
    house = await compose(loaded, accept_state=accept_state, forget_agents=forget_agents)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(house.close)
        control = control_app(house)
        await house.workload_api.start(loaded.workload_socket)
        unix = uvicorn.Config(control, http=PeerHttp, limit_concurrency=CONNECTIONS, **_COMMON)
        await _listen(stack, unix, [listen(loaded.control_socket)])
        stack.callback(loaded.control_socket.unlink, missing_ok=True)
        await _listen(stack, _tcp(_dispatch(house, control), loaded))
        await house.reloader.start()
        stack.push_async_callback(house.reloader.close)
        for work in (
            _every_second(house),
            _catalogue(house),
            house.federation.run(),
        ):
            running = asyncio.create_task(work)
            stack.push_async_callback(_cancelled, running)
        log.info("remit is up", url=loaded.url, state=str(loaded.state))
        yield house
        log.info("remit goes down")


def _dispatch(house: House, control: ASGIApp) -> ASGIApp:
    """Return what serves the port: a web page that was rebound to it gets nothing but ``/healthz``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_GATEWAY):
            await house.gateway(scope, receive, send)
            return
        if scope["path"].startswith(PREFIX):
            await house.egress(scope, receive, send)
            return
        if scope["path"] != "/healthz":
            head = Head(scope["method"], scope["path"], tuple(scope["headers"]))
            try:
                head.require_once()
                require_place(head, house.egress.options)
            except RemitError as error:
                await refused(error)(scope, receive, send)
                return
        await control(scope, receive, send)

    return app


def _check_tls(loaded: Loaded) -> None:
    """Refuse a certificate or key that cannot be used before anything is opened."""
    tls = loaded.config.authority.tls
    if tls is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            loaded.path(tls.cert), loaded.path(tls.key)
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"`[authority.tls]` cert `{tls.cert}` with key `{tls.key}` cannot be used: "
            f"{error.strerror or error}"
        ) from error


def _tcp(app: ASGIApp, loaded: Loaded) -> uvicorn.Config:
    tls = loaded.config.authority.tls
    files: dict[str, Any] = {}
    if tls is not None:
        files = {
            "ssl_certfile": str(loaded.path(tls.cert)),
            "ssl_keyfile": str(loaded.path(tls.key)),
            "ssl_version": ssl.PROTOCOL_TLS_SERVER,
        }
    return uvicorn.Config(
        app,
        host=loaded.host,
        port=loaded.port,
        http=BoundedHttp,
        limit_concurrency=loaded.config.limits.connections,
        **files,
        **_COMMON,
    )


_COMMON: dict[str, Any] = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,
    "lifespan": "off",
    "ws": "none",
    "timeout_graceful_shutdown": 5,
    "timeout_keep_alive": 5,
}


async def _listen(
    stack: contextlib.AsyncExitStack,
    config: uvicorn.Config,
    sockets: list[socket.socket] | None = None,
) -> None:
    listener = _Listener(config)
    running = asyncio.create_task(_serve(listener, sockets))
    while not listener.started:
        if running.done():
            running.result()
            raise ConfigError(
                f"nothing can listen at `{config.host}:{config.port}`: is another remit running?"
            )
        await asyncio.sleep(0.005)

    async def stop() -> None:
        listener.should_exit = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(running, STOP_SECONDS)

    stack.push_async_callback(stop)


async def _serve(listener: _Listener, sockets: list[socket.socket] | None) -> None:
    try:
        await listener.serve(sockets=sockets)
    except SystemExit:
        # How uvicorn says that it could not bind.
        return


async def _every_second(house: House) -> None:
    """Expire, sweep and rotate; one part that is put off puts off no other."""
    authority = house.authority

    async def sweep() -> None:
        await authority.leases.sweep(authority.tasks.is_open)

    async def approvals_due() -> None:
        authority.approvals.expire_due()

    async def outcomes_owed() -> None:
        await authority.evidence.pay()

    async def rotation_due() -> None:
        if utc_now() - house.trust_domain.activated_at >= ROTATE_AFTER:
            await rotate(house, "remit")

    ending: dict[str, asyncio.Task[None]] = {}
    while True:
        await asyncio.sleep(TICK_SECONDS)
        ending = _ending(authority, ending)
        await _tolerant("saying outcomes again", outcomes_owed())
        await _tolerant("looking after agents' processes", _supervisors(house))
        await _tolerant("expiring approvals", approvals_due())
        await _tolerant("looking at the age of sealed keys", _ages(house))
        await _tolerant("looking at keys that are kept elsewhere", house.own_keys.look())
        await _tolerant("sweeping leases", sweep())
        await _tolerant("sealing what ended", seal_ended(authority))
        await _tolerant("rotating keys", rotation_due())


def _ending(
    authority: Authority, running: dict[str, asyncio.Task[None]]
) -> dict[str, asyncio.Task[None]]:
    """Begin the ends that are due beside those that run; return them all.

    Each waits for its calls in flight; none waits for another task's.
    """

    async def expire(task_id: str) -> None:
        await close_task(task_id, TaskState.EXPIRED, "remit", authority)

    ending = {name: work for name, work in running.items() if not work.done()}
    for task_id in authority.tasks.due(utc_now()):
        if task_id not in ending:
            ending[task_id] = asyncio.create_task(_tolerant("expiring", expire(task_id)))
    if _DISOWNED not in ending:
        work = _tolerant("ending what lost its delegator", end_disowned(authority))
        ending[_DISOWNED] = asyncio.create_task(work)
    return ending


async def _ages(house: House) -> None:
    house.sealed.notice()


async def _supervisors(house: House) -> None:
    house.processes.notice()


async def _tolerant(what: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except RemitError as error:
        log.warning("put off", what=what, reason=str(error))
    except Exception:
        log.exception("the work of a second broke", what=what)


async def _catalogue(house: House) -> None:
    """Look at what every upstream offers, so that tools are pinned before anyone calls.

    One that is in trouble is looked at again and again: whoever waits for ``/readyz`` sends nothing
    that could show that it is well.
    """
    pending = set(house.gateway.upstreams)
    while True:
        await asyncio.gather(*(_look(house, name) for name in sorted(pending)))
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        pending = {name for name, trouble in house.gateway.health().items() if trouble is not None}


async def _look(house: House, name: str) -> None:
    try:
        tools = await scan(house.gateway, name)
        log.info("catalogued", upstream=name, targets=len(tools))
    except RemitError as error:
        log.warning("an upstream could not be catalogued", upstream=name, reason=str(error))
    except Exception:
        log.exception("cataloguing an upstream broke", upstream=name)


async def _cancelled(running: asyncio.Task[None]) -> None:
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
