"""The leak guard: what goes down to an agent holds no credential, neither ours nor another's.

The value of every credential that Remit minted or opened is looked for exactly, and in the
encodings that tools put things into without asking (percent, base64, hex); that needs no rules and
is always on. A scanner with a maintained rule set looks for the rest. A hit is taken out of the
message and named by its rule; the value goes nowhere.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, quote_plus

import msgspec

from remit.model.outcome import Leak

MINTED = "remit.credential"
"""The rule of an exact hit: the value of a credential of Remit's own."""

_LEAST_CHARACTERS = 8
_LEAST_BLOB = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A secret that a scanner saw in a text: ``secret`` is the part to take out."""

    rule: str
    secret: str = field(repr=False)


class Scanner(Protocol):
    """Finds credentials of others by rules."""

    def scan(self, text: str) -> Sequence[Hit]:
        """Return every credential in ``text``."""
        ...


class LeakGuard:
    """Looks at what goes down. ``secrets`` returns the live ones, each with its lease's id."""

    def __init__(
        self, secrets: Callable[[], Mapping[str, str]], scanner: Scanner | None = None
    ) -> None:
        self._secrets = secrets
        self._scanner = scanner
        self._forms: dict[str, tuple[str, ...]] = {}

    def clean(self, data: bytes) -> tuple[bytes, tuple[Leak, ...]]:
        """Return a message without the credentials in it, and what was taken out.

        The bytes are the same object where nothing was found.
        """
        try:
            message = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            text = data.decode("utf-8", "replace")
            found = self._found([text])
            return (data, ()) if not found else self._plain(text, found)
        found = self._found(list(_strings(message)))
        if not found:
            return data, ()
        counts: Counter[tuple[str, str | None]] = Counter()
        cleaned = msgspec.json.encode(_replaced(message, found, counts))
        return cleaned, _leaks(counts)

    def exact(self, tell: Callable[[tuple[Leak, ...]], None]) -> Callable[[bytes], bytes]:
        """Return what takes exact values out of messages that no decision was made about.

        ``tell`` is told at once of what was taken out.
        """
        only = LeakGuard(self._secrets)

        def clean(data: bytes) -> bytes:
            if not self._secrets():
                return data
            cleaned, found = only.clean(data)
            if found:
                tell(found)
            return cleaned

        return clean

    def clean_text(self, text: str) -> tuple[str, tuple[Leak, ...]]:
        """Return a text without the credentials in it, and what was taken out."""
        found = self._found([text])
        if not found:
            return text, ()
        counts: Counter[tuple[str, str | None]] = Counter()
        return _redacted(text, found, counts), _leaks(counts)

    def look(self, value: Any, *, rules: bool) -> tuple[Leak, ...]:
        """Return which credentials stand in a JSON value, anywhere; without ``rules`` only ours."""
        if not rules and not self._secrets():
            return ()
        strings = list(_strings(value))
        counts: Counter[tuple[str, str | None]] = Counter()
        for each in self._found(strings, rules=rules):
            counts[each.rule, each.lease] += max(1, sum(s.count(each.text) for s in strings))
        return _leaks(counts)

    def stream(self) -> StreamGuard:
        """Return a guard for an answer that is told in pieces: it looks for exact values alone."""
        return StreamGuard(self._all_forms)

    def _all_forms(self) -> Mapping[bytes, str]:
        return {
            form.encode(): lease
            for secret, lease in self._secrets().items()
            for form in self._forms_of(secret)
        }

    def _plain(self, text: str, found: list[_Found]) -> tuple[bytes, tuple[Leak, ...]]:
        counts: Counter[tuple[str, str | None]] = Counter()
        return _redacted(text, found, counts).encode(), _leaks(counts)

    def _found(self, strings: list[str], *, rules: bool = True) -> list[_Found]:
        """Return every part to take out, longest first, so that none is left half."""
        joined = "\n".join(strings)
        found = {
            form: _Found(MINTED, form, lease)
            for secret, lease in self._secrets().items()
            for form in self._forms_of(secret)
            if form in joined
        }
        for blob in _blobs(strings):
            for secret, lease in self._secrets().items():
                if secret.encode() in blob.decoded:
                    found[blob.text] = _Found(MINTED, blob.text, lease)
        if self._scanner is not None and rules:
            for hit in self._scanner.scan(joined):
                # A hit may span two of our strings, which are no neighbours.
                for part in hit.secret.split("\n"):
                    if len(part) >= _LEAST_CHARACTERS:
                        found.setdefault(part, _Found(hit.rule, part, None))
        return sorted(found.values(), key=lambda each: -len(each.text))

    def _forms_of(self, secret: str) -> tuple[str, ...]:
        """Return a secret as it may stand in a text; each is long enough not to be chance."""
        known = self._forms.get(secret)
        if known is None:
            if len(self._forms) > 4 * max(64, len(self._secrets())):
                self._forms.clear()
            raw = secret.encode()
            forms = {
                secret,
                quote(secret, safe=""),
                quote_plus(secret),
                *_within_base64(raw),
                json.dumps(secret)[1:-1],
                raw.hex(),
                raw.hex().upper(),
            }
            known = tuple(form for form in forms if len(form) >= _LEAST_CHARACTERS)
            self._forms[secret] = known
        return known


def merged(leaks: Sequence[Leak]) -> tuple[Leak, ...]:
    """Return each rule and lease once: a long stream is one record's worth, whatever it repeats."""
    counts: Counter[tuple[str, str | None]] = Counter()
    for leak in leaks:
        counts[leak.rule, leak.lease] += leak.count
    return _leaks(counts)


def clean_headers(headers: list[tuple[bytes, bytes]], clean: Callable[[bytes], bytes]) -> None:
    """Take credentials out of an answer's headers, in place."""
    headers[:] = [(name, clean(value)) for name, value in headers]


class StreamGuard:
    """Takes exact values out of a stream of bytes, also where one is cut in two."""

    def __init__(self, forms: Callable[[], Mapping[bytes, str]]) -> None:
        self._forms = forms
        self._held = b""
        self._counts: Counter[tuple[str, str | None]] = Counter()

    def feed(self, data: bytes) -> bytes:
        """Return what can be told already: all but what may be the beginning of a secret."""
        text, forms = self._held + data, self._ordered()
        begun = min((_begun(text, form) for form, _ in forms), default=len(text))
        begun = _between(text, begun, [form for form, _ in forms])
        self._held = text[begun:]
        return self._cleaned(text[:begun], forms)

    def end(self) -> bytes:
        """Return the rest."""
        told, self._held = self._cleaned(self._held, self._ordered()), b""
        return told

    def _ordered(self) -> list[tuple[bytes, str]]:
        """Return what to look for, longest first. A credential may be minted while we look."""
        return sorted(self._forms().items(), key=lambda item: -len(item[0]))

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """What was taken out so far."""
        return _leaks(self._counts)

    def _cleaned(self, text: bytes, forms: list[tuple[bytes, str]]) -> bytes:
        for form, lease in forms:
            times = text.count(form)
            if times:
                self._counts[MINTED, lease] += times
                text = text.replace(form, f"[removed by remit: {MINTED}]".encode())
        return text


def _begun(text: bytes, form: bytes) -> int:
    """Return where, at the end of ``text``, ``form`` may have begun; its length where nowhere."""
    at = max(0, len(text) - len(form) + 1)
    while (at := text.find(form[:1], at)) >= 0:
        if form.startswith(text[at:]):
            return at
        at += 1
    return len(text)


def _between(text: bytes, cut: int, forms: Sequence[bytes]) -> int:
    """Return where to cut, at ``cut`` or before it, so that no form is cut in two."""
    moved = True
    while moved:
        moved = False
        for form in forms:
            at = text.find(form, max(0, cut - len(form) + 1), cut + len(form) - 1)
            if 0 <= at < cut:
                cut, moved = at, True
    return cut


@dataclass(frozen=True, slots=True)
class _Found:
    rule: str
    text: str = field(repr=False)
    lease: str | None

    @property
    def words(self) -> str:
        """What stands in its place."""
        return f"[removed by remit: {self.rule}]"


def _within_base64(raw: bytes) -> Iterator[str]:
    """Yield what base64 makes of ``raw`` wherever it begins: as in ``Basic``, behind a user's name."""
    for before in range(3):
        # The characters that what stands before and behind have a part in are left out.
        whole = base64.b64encode(b"\0" * before + raw)
        known = (len(raw) + before) * 8 // 6
        inner = whole[(before * 8 + 5) // 6 : known].decode()
        yield inner
        yield inner.replace("+", "-").replace("/", "_")


@dataclass(frozen=True, slots=True)
class _Blob:
    text: str = field(repr=False)
    decoded: bytes = field(repr=False)


def _strings(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            stack.extend(each.keys())
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)


def _blobs(strings: list[str]) -> Iterator[_Blob]:
    """Yield what is base64 as a whole: files and images travel so in MCP."""
    for text in strings:
        if len(text) < _LEAST_BLOB or len(text) % 4 or " " in text[:64]:
            continue
        try:
            yield _Blob(text, base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            continue


def _replaced(value: Any, found: list[_Found], counts: Counter[tuple[str, str | None]]) -> Any:
    if isinstance(value, str):
        return _redacted(value, found, counts)
    if isinstance(value, dict):
        return {
            _redacted(key, found, counts): _replaced(each, found, counts)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_replaced(each, found, counts) for each in value]
    return value


def _redacted(text: str, found: list[_Found], counts: Counter[tuple[str, str | None]]) -> str:
    for each in found:
        times = text.count(each.text)
        if times:
            counts[each.rule, each.lease] += times
            text = text.replace(each.text, each.words)
    return text


def _leaks(counts: Counter[tuple[str, str | None]]) -> tuple[Leak, ...]:
    return tuple(
        Leak(rule=rule, count=count, lease=lease)
        for (rule, lease), count in sorted(counts.items(), key=lambda item: str(item[0]))
    )
