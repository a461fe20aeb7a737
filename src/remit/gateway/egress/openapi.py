"""Reads operations from an OpenAPI document (3.0 or 3.1): a local file, nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import yaml

from remit.gateway.egress.operations import BODILESS, METHODS, Operation
from remit.model.errors import ConfigError

log = structlog.get_logger()

_MOST_BYTES = 32 * 1024 * 1024
_JSON = "application/json"


def read_operations(file: Path, only: Iterable[str] = ()) -> tuple[Operation, ...]:
    """Return the operations of a document.

    Args:
        file: JSON or YAML.
        only: the ``operationId`` of those that are wanted; none named are all.

    Raises:
        ConfigError: it cannot be read, is no OpenAPI document, or lacks an operation that was named.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"`{file}` cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"`{file}` is larger than {_MOST_BYTES} bytes")
    document = _document(data, file)
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise ConfigError(f"`{file}` is no OpenAPI 3 document")
    wanted = frozenset(only)
    found = dict(_operations(document, wanted, file))
    if missing := wanted - found.keys():
        raise ConfigError(f"`{file}` has no operation `{min(missing)}`")
    return tuple(found.values())


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _document(data: bytes, file: Path) -> Any:
    if data.lstrip()[:1] == b"{":
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # YAML's flow style begins like it
    try:
        return yaml.load(data, Loader=_LOADER)  # noqa: S506 - the C form of the safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"`{file}` is neither JSON nor YAML") from error


def _operations(
    document: Mapping[str, Any], wanted: frozenset[str], file: Path
) -> Iterable[tuple[str, Operation]]:
    """Yield each operation with its id; what cannot be expressed is left out, unless it is wanted."""
    for path, item in _mapping(document.get("paths")).items():
        for method, described in _mapping(item).items():
            if str(method).upper() not in METHODS or not isinstance(described, dict):
                continue
            name = described.get("operationId")
            if not isinstance(name, str) or (wanted and name not in wanted):
                continue
            try:
                shared = _parameters(document, _mapping(item).get("parameters"), file)
                own = _parameters(document, described.get("parameters"), file)
                body, media = _body(document, described, str(method).upper(), file)
                yield (
                    name,
                    Operation(
                        name=name.replace("/", "."),
                        method=str(method).upper(),
                        path=str(path),
                        query=tuple(sorted(shared | own)),
                        body=body,
                        media=media,
                        description=str(
                            described.get("summary") or described.get("description") or ""
                        ),
                    ),
                )
            except ConfigError as error:
                if wanted:
                    raise
                log.warning("an operation is not offered", operation=name, reason=str(error))


def _parameters(document: Mapping[str, Any], listed: Any, file: Path) -> frozenset[str]:
    """Return the names of the query's parameters."""
    found = [_resolved(document, each, file) for each in listed or ()]
    return frozenset(str(each.get("name")) for each in found if each.get("in") == "query")


def _body(
    document: Mapping[str, Any], described: Mapping[str, Any], method: str, file: Path
) -> tuple[Any, str]:
    """Return what the body is and its content type."""
    found = _resolved(document, described.get("requestBody") or {}, file)
    content = _mapping(found.get("content"))
    medias = [media for media in content if str(media).partition("+")[2] == "json"]
    media = _JSON if _JSON in content else str(next(iter(medias), _JSON))
    if not content or method in BODILESS:
        return "none", _JSON
    if media not in content:
        raise ConfigError(f"`{file}`: the body of `{described['operationId']}` is no JSON")
    schema = _resolved(document, _mapping(content[media]).get("schema") or {}, file)
    return ("json" if schema.get("type", "object") == "object" else "value"), media


def _resolved(document: Mapping[str, Any], value: Any, file: Path) -> Mapping[str, Any]:
    """Follow a local ``$ref``; others are refused, for nothing is fetched.

    Raises:
        ConfigError: the reference leads out of the document, or to nothing.
    """
    seen = 0
    while isinstance(value, dict) and "$ref" in value:
        reference = str(value["$ref"])
        seen += 1
        if not reference.startswith("#/") or seen > 16:  # noqa: PLR2004 - deeper is a loop
            raise ConfigError(f"`{file}`: `{reference[:100]}` does not lead to a part of it")
        value = document
        for part in reference[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            value = _mapping(value).get(key)
    if not isinstance(value, dict):
        raise ConfigError(f"`{file}`: a reference leads to nothing")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
