"""Tasks in memory, for tests of what stands on the task desk."""

from __future__ import annotations

from collections.abc import Sequence

from remit.model.task import Task, TaskState


class MemoryTasks:
    """Implements ``tasks.ports.TaskStore`` without a disk."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def put(self, task: Task) -> None:
        """Keep a task's present state."""
        self._tasks[task.id] = task

    async def get(self, task_id: str) -> Task | None:
        """Return one task."""
        return self._tasks.get(task_id)

    async def list(
        self,
        *,
        state: TaskState | None = None,
        agent: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Sequence[Task]:
        """Return tasks, newest first."""
        found = [
            task
            for _, task in sorted(self._tasks.items(), reverse=True)
            if (state is None or task.state is state)
            and (agent is None or task.mandate.agent == agent)
            and (after is None or task.id < after)
        ]
        return found[:limit]
