"""Routes of evidence: a task's chain, its pack, the audit, and why a decision fell as it did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from remit.api.answers import answer, guarded, limit_of, plain
from remit.api.callers import Callers
from remit.evidence.ledger import Ledger
from remit.model.errors import NotFoundError
from remit.model.record import Record

Export = Callable[[str], Awaitable[bytes]]
Explain = Callable[[str], Awaitable[dict[str, Any]]]
IsOpen = Callable[[str], bool]


def routes(
    ledger: Ledger, export: Export, explain: Explain, is_open: IsOpen, callers: Callers
) -> list[Route]:
    """Return evidence's routes; what the vault holds is not on them."""

    async def chain(request: Request) -> Response:
        await callers.person(request)
        task = request.path_params["task"]
        records = await ledger.chain(task)
        if not records:
            raise NotFoundError(f"the log knows no task `{task}`: see `remit task list`")
        return answer(
            {
                "task": task,
                "sealed": any(record.kind == "task.sealed" for _, record in records),
                "records": [view(index, record) for index, record in records],
            }
        )

    async def pack(request: Request) -> Response:
        await callers.person(request)
        data = await export(request.path_params["task"])
        return Response(data, media_type="application/octet-stream")

    async def audit(request: Request) -> Response:
        await callers.person(request)
        limit = limit_of(request)
        tasks = await ledger.tasks(request.query_params.get("after"), limit)
        found = [finding for task in tasks for finding in await ledger.audit(task)]
        # A task that runs has not ended: that is no fault. One that no desk knows of has to have.
        running = {task for task in tasks if is_open(task)}
        findings = [each for each in found if not (each.waits and each.task in running)]
        return answer(
            {
                "tasks": len(tasks),
                "open": [task for task in tasks if task in running],
                "items": [
                    {
                        "task": finding.task,
                        "question": finding.question.value,
                        "finding": finding.sentence,
                        "call": finding.call,
                    }
                    for finding in findings
                ],
                "next": tasks[-1] if len(tasks) >= limit else None,
            }
        )

    async def why(request: Request) -> Response:
        await callers.person(request)
        return answer(await explain(request.path_params["id"]))

    return [
        Route("/evidence/audit", guarded(audit), methods=["GET"]),
        Route("/evidence/tasks/{task}", guarded(chain), methods=["GET"]),
        Route("/evidence/tasks/{task}/pack", guarded(pack), methods=["GET"]),
        Route("/decisions/{id}", guarded(why), methods=["GET"]),
    ]


def view(index: int, record: Record) -> dict[str, Any]:
    """Return a record with its place in the log."""
    return {"index": index, **plain(record)}
