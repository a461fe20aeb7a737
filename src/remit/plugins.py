"""Loads the plugins that the configuration names, and only those.

Built-ins are advertised under the same entry-point groups, so that outsiders get nothing less.
Loading everything that is installed would let any package run inside the authority.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from remit.credentials.port import Broker, BrokerFactory, Surroundings
from remit.keystore.ports import Algorithm, KeyProvider, RemoteKey
from remit.model.errors import ConfigError
from remit.model.record import Step

BROKERS = "remit.credential_brokers"
KEY_PROVIDERS = "remit.key_providers"
_EXTRAS = {"awskms": "aws"}
"""The extra of a built-in kind, where it is not called like it."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}\Z")  # RFC 3986, 3.1, in lower case


def load_broker(
    name: str, table: Mapping[str, Any], surroundings: Surroundings
) -> tuple[Broker, Step]:
    """Make the broker that ``[broker.NAME]`` describes; return it with the record of its loading.

    Args:
        name: the table's name.
        table: ``kind``, which names the plugin, and the plugin's own options.
        surroundings: what the broker may use of the house.

    Raises:
        ConfigError: no such kind is installed, it cannot be loaded, or its options are wrong.
    """
    options = {key: value for key, value in table.items() if key != "kind"}
    entry = _entry(BROKERS, str(table["kind"]), f"broker `{name}`")
    factory: BrokerFactory = _load(entry, f"broker `{name}`")
    return factory(name, options, surroundings), _loaded(name, entry)


def require_broker(name: str, table: Mapping[str, Any]) -> str:
    """Return what package offers the broker of ``[broker.NAME]``, which can be loaded.

    Raises:
        ConfigError: no such kind is installed, or it cannot be loaded.
    """
    entry = _entry(BROKERS, str(table["kind"]), f"broker `{name}`")
    _load(entry, f"broker `{name}`")
    return f"kind `{entry.name}`" + (f" of {entry.dist.name}" if entry.dist else "")


def load_key(name: str, uri: str, algorithm: Algorithm) -> tuple[RemoteKey, Step]:
    """Return the key that a URI names, by its scheme, and the record of what was loaded for it.

    Args:
        name: the setting, as messages show it.
        uri: ``scheme:…``; the rest is the provider's.
        algorithm: what the key has to sign with.

    Raises:
        ConfigError: no provider of that scheme is installed, it cannot be loaded, or it does not
            take the URI.
    """
    scheme, colon, _ = uri.partition(":")
    if not colon or not _SCHEME.match(scheme):
        raise ConfigError(
            f"{name} is a URI, as `pkcs11:…` or `awskms:…`, or is left out: then it is a file"
        )
    entry = _entry(KEY_PROVIDERS, scheme, name)
    provider: KeyProvider = _load(entry, name)
    try:
        return provider(uri, algorithm), _loaded(name.replace("`", ""), entry)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _load(entry: EntryPoint, where: str) -> Any:
    try:
        return entry.load()
    except ImportError as error:
        extra = f": install `remit[{_EXTRAS.get(entry.name, entry.name)}]`" if _ours(entry) else ""
        raise ConfigError(
            f"{where}: kind `{entry.name}` needs a package that is not here (`{error.name}`){extra}"
        ) from error
    except AttributeError as error:  # the code is newer than what was noted of it when installed
        package = f"`{entry.dist.name}`" if entry.dist else "its package"
        raise ConfigError(
            f"{where}: kind `{entry.name}` is not at `{entry.value}`: install {package} anew"
        ) from error


def _entry(group: str, kind: str, where: str) -> EntryPoint:
    found = [each for each in entry_points(group=group) if each.name == kind]
    if not found:
        known = sorted({each.name for each in entry_points(group=group)})
        raise ConfigError(
            f"{where}: there is no kind `{kind}`; these are installed: {', '.join(known) or 'none'}"
        )
    if len(found) > 1:
        # Which of two packages runs inside the authority must not depend on the order of a path.
        packages = ", ".join(sorted(each.dist.name for each in found if each.dist))
        raise ConfigError(f"{where}: kind `{kind}` is offered by several packages: {packages}")
    return found[0]


def _ours(entry: EntryPoint) -> bool:
    return entry.dist is not None and entry.dist.name == "remit"


def _loaded(name: str, entry: EntryPoint) -> Step:
    """Say as evidence what code runs inside the authority."""
    package = entry.dist
    return Step(
        kind="plugin.loaded",
        body={
            "name": name,
            "group": entry.group,
            "kind": entry.name,
            "object": entry.value,
            "package": package.name if package else None,
            "version": package.version if package else None,
        },
    )
