"""Which task is a plain MCP client's current one. A session is authority for nothing by itself."""

from __future__ import annotations

MAX_SESSIONS = 100_000


class Sessions:
    """Session keys and their tasks, in memory; past the limit, the oldest binding goes."""

    def __init__(self) -> None:
        self._tasks: dict[str, str] = {}

    def bind(self, key: str, task_id: str) -> None:
        """Make a task the session's current one."""
        self._tasks.pop(key, None)
        self._tasks[key] = task_id
        while len(self._tasks) > MAX_SESSIONS:
            del self._tasks[next(iter(self._tasks))]

    def task_of(self, key: str) -> str | None:
        """Return the session's current task."""
        return self._tasks.get(key)

    def release(self, task_id: str) -> None:
        """Forget a task that has ended."""
        for key in [key for key, bound in self._tasks.items() if bound == task_id]:
            del self._tasks[key]
