"""Asks OpenBao as Remit or with a token that Remit made, and says what went wrong without a secret."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hvac.exceptions import Forbidden, InvalidPath, InvalidRequest, Unauthorized, VaultError

from remit.credentials.brokers.openbao.carried import Asking, Carrier
from remit.credentials.brokers.openbao.options import Options
from remit.credentials.brokers.openbao.own import Own, Secrets
from remit.credentials.port import Signer
from remit.model.errors import BrokerError, ConfigError, NotMintedError

_GONE = ("invalid accessor", "invalid lease", "no token found", "token not found")
"""How OpenBao and Vault say that a thing is not there; its status alone is also a denial's."""


class Api:
    """Talks to one OpenBao."""

    def __init__(
        self, where: str, options: Options, path: Callable[[str], Path], signer: Signer
    ) -> None:
        """Reach nobody yet.

        Raises:
            ConfigError: `ca_file` holds no certificate.
        """
        self._carrier = Carrier(
            options.url,
            options.namespace,
            seconds=options.timeout_seconds,
            tls=_trust(where, options, path),
        )
        self.ask = self._carrier.ask
        self._own = Own(options, Secrets(where, path), signer, self.ask)

    async def as_remit(self, asking: Asking, *, lives: float = 0, again: bool = True) -> Any:
        """Ask as Remit; once more with another token of its own, where one was refused.

        Args:
            asking: what is asked.
            lives: seconds that what is made below Remit's own token has to live.
            again: whether a refusal is a reason to ask again.

        Raises:
            VaultError: OpenBao refused, or failed.
            NotMintedError: it was never reached, or there is no token to show.
            BrokerError: it did not answer, or not to the end.
        """
        token, fresh = await self._own.token(lives)
        try:
            return await self.ask(token, asking)
        except (Forbidden, Unauthorized):
            if fresh or not again:
                raise
            self._own.refused(token)
            another, _ = await self._own.token(lives)
            if another == token:
                raise
        return await self.ask(another, asking)

    async def close(self) -> None:
        """Log out where a login was made, and close the connections."""
        try:
            with contextlib.suppress(BrokerError), answers("logging out"):
                await self._own.log_out()
        finally:
            await self._carrier.close()


def is_gone(error: VaultError) -> bool:
    """Whether OpenBao said that the thing asked for is not there, and not that we may not ask.

    Its words decide: a 404 is also what a wrong mount, namespace or server answers.
    """
    said = " ".join(str(each) for each in error.errors or ()).lower()
    return isinstance(error, InvalidRequest | Forbidden) and any(each in said for each in _GONE)


@contextlib.contextmanager
def answers(what: str, *, mints: bool = False) -> Iterator[None]:
    """Turn what is raised while OpenBao is asked into errors that show no secret.

    Raises:
        NotMintedError: with ``mints``, OpenBao refused or was never reached.
        BrokerError: anything else went wrong.
    """
    try:
        yield
    except VaultError as error:
        status = type(error).__name__
        refused = isinstance(error, InvalidRequest | Unauthorized | Forbidden | InvalidPath)
        kind = NotMintedError if mints and refused else BrokerError
        raise kind(f"openbao: {what} was answered with `{status}`: {_hint(error)}") from None
    except NotMintedError as error:
        if mints:
            raise
        raise BrokerError(str(error)) from None
    except (KeyError, TypeError, ValueError):
        raise BrokerError(f"openbao: {what} was answered with something else") from None


def _hint(error: VaultError) -> str:
    if isinstance(error, Forbidden | Unauthorized):
        return "look at the policy of Remit's own token, and at its age"
    if isinstance(error, InvalidRequest | InvalidPath):
        return "look at the names in the grant, and at the token role's allowed policies"
    return "look at OpenBao's own log"


def _trust(where: str, options: Options, path: Callable[[str], Path]) -> ssl.SSLContext | bool:
    if options.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=path(options.ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{where}: `ca_file`: `{options.ca_file}` holds no certificate"
        ) from error
