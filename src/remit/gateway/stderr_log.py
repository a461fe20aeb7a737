"""What an upstream says on its standard error, fit for our log: whole lines, few, and no secret.

A server may print as much as it likes, and whatever it was given: its environment's values, a
header, a token. Lines are bounded in length and rate, and what looks like a credential is blanked.
That is a courtesy to the log's readers, not a wall: an upstream can print a secret in disguise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import structlog

log = structlog.get_logger()

WINDOW_SECONDS = 10.0
LINES_A_WINDOW = 20
LINE_CHARACTERS = 500
_HELD_BYTES = 65_536
_LEAST_SECRET = 6
_A_LINE = 16
_BLANK = "[blanked]"
_NAMED = re.compile(
    r"""(?ix) \b ( [a-z0-9_-]* (?: password | passwd | secret | token | api[_-]?key | authorization
        | cookie | credential ) s? ["']? \s* [=:] \s* ) (?: (?:bearer|basic|dpop)\s+ )?
        ( "[^"]*" | '[^']*' | [^\s,;&"']+ )""",
)
_BEARER = re.compile(r"(?i)\b(bearer|basic|dpop)\s+[A-Za-z0-9._~+/=-]{8,}")
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*")
_USERINFO = re.compile(r"(://)[^\s/@:]+:[^\s/@]+@")


class StderrLog:
    """Turns the bytes of one process's standard error into log lines.

    Args:
        name: the upstream's, which every line carries.
        environment: what the process was given; none of its values reaches the log.
        clock: seconds that only rise.
        secrets: what was minted for the process; nor do these, by the line where they have many.
        clean: takes out what else must not be logged, first: every credential that is alive.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str],
        clock: Callable[[], float],
        secrets: Sequence[str] = (),
        clean: Callable[[str], str] = str,
    ) -> None:
        self._name = name
        given = {*environment.values(), *secrets}
        # A key of many lines is printed line by line.
        given |= {line for value in given for line in value.splitlines() if len(line) >= _A_LINE}
        # The longest first: one value may be a part of another.
        self._values = sorted((v for v in given if len(v) >= _LEAST_SECRET), key=len, reverse=True)
        self._secret_clean = clean
        self._clock = clock
        self._held = b""
        self._overlong = False
        self._began = clock()
        self._said = 0
        self._left_out = 0

    def feed(self, chunk: bytes) -> None:
        """Take what was read."""
        *lines, self._held = (self._held + chunk).split(b"\n")
        for line in lines:
            if not self._overlong:
                self._line(line)
            self._overlong = False
        if len(self._held) > _HELD_BYTES:
            # What is cut in two may be a secret, and half of one is found by nobody.
            self._held, self._overlong = b"", True

    def end(self) -> None:
        """Say what is left, and how much was left out."""
        if not self._overlong:
            self._line(self._held)
        self._held = b""
        self._summed_up()

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if not text:
            return
        if self._clock() - self._began >= WINDOW_SECONDS:
            self._summed_up()
            self._began, self._said = self._clock(), 0
        if self._said >= LINES_A_WINDOW:
            self._left_out += 1
            return
        self._said += 1
        log.info("upstream said", upstream=self._name, line=self._clean(text)[:LINE_CHARACTERS])

    def _summed_up(self) -> None:
        if self._left_out:
            log.info("upstream said more than is shown", upstream=self._name, lines=self._left_out)
        self._left_out = 0

    def _clean(self, text: str) -> str:
        text = self._secret_clean(text)
        for value in self._values:
            text = text.replace(value, _BLANK)
        text = _NAMED.sub(lambda found: found[1] + _BLANK, text)
        text = _BEARER.sub(lambda found: f"{found[1]} {_BLANK}", text)
        return _USERINFO.sub(rf"\1{_BLANK}@", _TOKEN.sub(_BLANK, text))
