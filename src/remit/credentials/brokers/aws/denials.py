"""Sessions that are over: a deny in an inline policy of the role, one name a session.

A session's ``aws:userid`` is ``ROLE-ID:SESSION-NAME``, and its name is the lease's handle, so a deny
on ``*:HANDLE`` ends exactly one session; even one whose mint was never answered, or lands later.
The policy is read from IAM, joined with what this process wrote (IAM may answer with an older
version for some seconds), rid of what has expired, and written. So it only ever denies more than
before. When a name may be left out again stands in the statement's ``Sid``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from remit.credentials.brokers.aws.api import Api
from remit.model.errors import BrokerError

MOST_CHARACTERS = 8_000
"""Of the 10,240 that all inline policies of a role share."""
_BUCKET_SECONDS = 600
_SID = re.compile(r"Until([0-9]{9,11})\Z")


class FullError(BrokerError):
    """The list holds no more names."""


class Denials:
    """The names that the role's policy denies; one writer an installation."""

    def __init__(self, api: Api, installation: str, clock: Callable[[], datetime]) -> None:
        self._api = api
        self._name = f"{installation}-over"
        self._clock = clock
        self._ours: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._writing = asyncio.Lock()

    async def add(self, handle: str, until: datetime) -> None:
        """Deny a session until then. Whoever writes next writes for all that wait.

        Raises:
            FullError: more sessions are denied already than a policy has room for.
            BrokerError: IAM did not write.
        """
        seconds = int(until.timestamp())
        self._waiting[handle] = seconds + -seconds % _BUCKET_SECONDS
        async with self._writing:
            if handle not in self._waiting:
                return
            added = dict(self._waiting)
            read = await self._read()
            wanted = self._unexpired(read)
            for name, end in added.items():
                wanted[name] = max(end, wanted.get(name, 0))
                if len(_document(wanted)) > MOST_CHARACTERS:
                    del wanted[name]
            if wanted != read:
                await self._api.put_role_policy(self._name, _document(wanted))
            self._ours = wanted
            for name in added:
                if name in wanted:
                    self._waiting.pop(name, None)
            if handle not in wanted:
                self._waiting.pop(handle, None)
                raise FullError("aws: the policy that denies sessions is full")

    async def names(self) -> frozenset[str]:
        """Return the handles that IAM denies now.

        Raises:
            BrokerError: IAM did not say.
        """
        return frozenset(await self._read())

    def _unexpired(self, read: dict[str, int]) -> dict[str, int]:
        now = self._clock().timestamp()
        return {name: end for name, end in {**read, **self._ours}.items() if end > now}

    async def _read(self) -> dict[str, int]:
        text = await self._api.role_policy(self._name)
        if text is None:
            return {}
        try:
            return _names(json.loads(unquote(text)))
        except (ValueError, KeyError, TypeError):
            raise BrokerError(
                f"aws: somebody else wrote the role's policy `{self._name}`: remove it"
            ) from None


def _names(document: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for statement in document["Statement"]:
        sid = _SID.match(statement["Sid"])
        if sid is None:
            raise ValueError
        for name in statement["Condition"]["StringLike"]["aws:userid"]:
            found[str(name).removeprefix("*:")] = int(sid[1])
    return found


def _document(names: dict[str, int]) -> str:
    ends: dict[int, list[str]] = {}
    for name, end in sorted(names.items()):
        ends.setdefault(end, []).append(f"*:{name}")
    statements = [
        {
            "Sid": f"Until{end}",
            "Effect": "Deny",
            "Action": "*",
            "Resource": "*",
            "Condition": {"StringLike": {"aws:userid": found}},
        }
        for end, found in sorted(ends.items())
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
