"""Keys in a PKCS #11 token: a smart card, an HSM, SoftHSM. The extra ``pkcs11`` has the library.

A module is the whole process's: there is one of each here, used by one thread at a time. After any
trouble it is started anew, which is the only way that some find a token that came back.

A PIN that was refused is not tried again until another one is there: tokens lock themselves.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import (
    PinIncorrect,
    PinInvalid,
    PinLenRange,
    PinLocked,
    PKCS11Error,
    UserAlreadyLoggedIn,
)

from remit.keystore.pin import read_pin
from remit.keystore.ports import Algorithm
from remit.keystore.uri import Pkcs11Uri, parse_uri
from remit.model.errors import ConfigError, UnavailableError

SECONDS = 5.0
"""How long one key waits while another uses the module."""

_OTHERS_WRITE = 0o022
_OK, _ALREADY_INITIALIZED = 0, 0x191  # CKR_OK, CKR_CRYPTOKI_ALREADY_INITIALIZED
_P256 = bytes.fromhex("06082a8648ce3d030107")
_EDWARDS25519 = (bytes.fromhex("130c656477617264733235353139"), bytes.fromhex("06032b6570"))
"""PKCS #11 3.0, 2.3.10, and the object identifier of RFC 8410."""
_REFUSED_PINS = (PinIncorrect, PinInvalid, PinLenRange, PinLocked)

log = structlog.get_logger()
_T = TypeVar("_T")


class Pkcs11Key:
    """Implements ``keystore.ports.RemoteKey``; the class is a ``KeyProvider``."""

    def __init__(self, uri: str, algorithm: Algorithm) -> None:
        """Read the URI.

        Raises:
            ConfigError: as :func:`remit.keystore.uri.parse_uri`.
        """
        self._uri = parse_uri(uri)
        self._algorithm = algorithm

    def public_key(self) -> bytes:
        """Return the public half."""

        def read(module: _Module) -> bytes:
            session = module.session(self._uri)
            return self._public(session, self._find(session))

        return self._twice(read)

    def sign(self, message: bytes) -> bytes:
        """Return a signature."""

        def signed(module: _Module) -> bytes:
            key: Any = self._find(module.session(self._uri))
            if self._algorithm is Algorithm.ED25519:
                return bytes(key.sign(message, mechanism=Mechanism.EDDSA))
            digest = hashlib.sha256(message).digest()
            pair = bytes(key.sign(digest, mechanism=Mechanism.ECDSA))
            half = len(pair) // 2
            return encode_dss_signature(int.from_bytes(pair[:half]), int.from_bytes(pair[half:]))

        return self._twice(signed)

    def make(self) -> bytes:
        """Make the key: sensitive, never to be taken out, for signing alone."""

        def made(module: _Module) -> bytes:
            uri = self._uri
            session = module.session(uri, writing=True)
            if _keys(session, uri, ObjectClass.PRIVATE_KEY):
                raise ConfigError(f"there is a key at `{uri.shown}` already; nothing was made")
            edwards = self._algorithm is Algorithm.ED25519
            parameters = session.create_domain_parameters(
                KeyType.EC_EDWARDS if edwards else KeyType.EC,
                {Attribute.EC_PARAMS: _EDWARDS25519[0] if edwards else _P256},
                local=True,
            )
            public, _ = parameters.generate_keypair(
                mechanism=(
                    Mechanism.EC_EDWARDS_KEY_PAIR_GEN if edwards else Mechanism.EC_KEY_PAIR_GEN
                ),
                label=uri.object,
                id=uri.id,
                store=True,
                public_template={Attribute.VERIFY: True, Attribute.PRIVATE: False},
                private_template={
                    Attribute.SIGN: True,
                    Attribute.SENSITIVE: True,
                    Attribute.EXTRACTABLE: False,
                    Attribute.PRIVATE: True,
                },
            )
            return self._spki(bytes(public[Attribute.EC_POINT]))

        return self._once(made)

    def _once(self, work: Callable[[_Module], _T]) -> _T:
        with _using(self._uri.module) as module:
            return work(module)

    def _twice(self, work: Callable[[_Module], _T]) -> _T:
        """Do ``work``; where a session had been open before, once more with a new one.

        A session ends when the token was away for a moment, or its connection was; that is no
        reason to fail when the token is back.
        """
        with _using(self._uri.module) as module:
            if not module.is_open(self._uri):
                return work(module)
            with suppress(PKCS11Error, ConfigError):
                return work(module)
            module.restart()
            return work(module)

    def _find(self, session: pkcs11.Session) -> pkcs11.Object:
        found = _keys(session, self._uri, ObjectClass.PRIVATE_KEY)
        if not found:
            raise ConfigError(
                f"there is no key at `{self._uri.shown}`: make it with `remit keys make`, or with "
                f"`{self._command()}`"
            )
        if len(found) > 1:
            raise ConfigError(
                f"there are several keys at `{self._uri.shown}`: tell them apart with `id=%…`"
            )
        return found[0]

    def _public(self, session: pkcs11.Session, private: pkcs11.Object) -> bytes:
        uri = self._uri
        edwards = self._algorithm is Algorithm.ED25519
        parameters = bytes(private[Attribute.EC_PARAMS])
        if parameters not in (_EDWARDS25519 if edwards else (_P256,)):
            raise ConfigError(
                f"the key at `{uri.shown}` is of another kind than is wanted here "
                f"(`{self._algorithm}`): make one with `{self._command()}`"
            )
        with suppress(PKCS11Error):  # not every token says
            if private[Attribute.EXTRACTABLE] or not private[Attribute.SENSITIVE]:
                log.warning("a key can be taken out of its token", key=uri.shown)
        public = _keys(session, uri, ObjectClass.PUBLIC_KEY)
        try:
            point = bytes((public[0] if public else private)[Attribute.EC_POINT])
        except PKCS11Error as error:
            raise ConfigError(
                f"the public half of the key at `{uri.shown}` is not in the token"
            ) from error
        return self._spki(point)

    def _spki(self, point: bytes) -> bytes:
        """Return a CKA_EC_POINT, with or without the OCTET STRING around it, as a public key."""
        length = 32 if self._algorithm is Algorithm.ED25519 else 65
        if len(point) == length + 2 and point[:2] == bytes([4, length]):
            point = point[2:]
        try:
            key: Ed25519PublicKey | EllipticCurvePublicKey
            if self._algorithm is Algorithm.ED25519:
                key = Ed25519PublicKey.from_public_bytes(point)
            else:
                key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
        except ValueError as error:
            raise ConfigError(
                f"the public half of the key at `{self._uri.shown}` is no `{self._algorithm}` key"
            ) from error
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def _command(self) -> str:
        uri = self._uri
        curve = "edwards25519" if self._algorithm is Algorithm.ED25519 else "prime256v1"
        words = ["pkcs11-tool", "--module", str(uri.module), "--token-label", uri.token]
        words += ["--login", "--keypairgen", "--key-type", f"EC:{curve}", "--label", uri.object]
        if uri.id is not None:
            words += ["--id", uri.id.hex()]
        return shlex.join([*words, "--usage-sign", "--sensitive"])


class _Module:
    """A loaded module, and the session that is open at each of its tokens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library: Any | None = None
        self._sessions: dict[tuple[object, ...], pkcs11.Session] = {}
        self._refused: set[bytes] = set()
        self._stale = False
        self.lock = threading.Lock()

    def is_open(self, uri: Pkcs11Uri) -> bool:
        """Whether a session is open at the token of ``uri``."""
        return not self._stale and (*_token_of(uri), False) in self._sessions

    def restart(self) -> None:
        """Forget every session; the module is started anew before it is used again."""
        self._sessions.clear()
        self._stale = True

    def session(self, uri: Pkcs11Uri, *, writing: bool = False) -> pkcs11.Session:
        """Return a session at a token, logged in."""
        name = (*_token_of(uri), writing)
        if name not in self._sessions or self._stale:
            library = self._load()
            self._sessions[name] = self._login(_token(library, uri), uri, writing=writing)
        return self._sessions[name]

    def _load(self) -> Any:
        if self._library is None:
            _require_ours(self._path)
            self._library = pkcs11.lib(str(self._path))
        elif self._stale:
            self._sessions.clear()
            self._start_anew(self._library)
        self._stale = False
        return self._library

    def _start_anew(self, library: Any) -> None:
        """End the module and begin it again.

        Through ``ctypes`` where that can be: the library's own ``finalize`` keeps the interpreter's
        lock, and a module that hangs there would hold up all of Remit.
        """
        module = ctypes.CDLL(str(self._path))
        try:
            end, begin = module.C_Finalize, module.C_Initialize
        except AttributeError:  # only C_GetFunctionList has to be exported
            with suppress(PKCS11Error):
                library.finalize()
            library.initialize()
            return
        end.restype = begin.restype = ctypes.c_ulong
        end(None)
        if (code := begin(None)) not in {_OK, _ALREADY_INITIALIZED}:
            raise UnavailableError(
                f"the module `{self._path}` does not begin ({code:#x}): look at its token"
            )

    def _login(self, token: pkcs11.Token, uri: Pkcs11Uri, *, writing: bool) -> pkcs11.Session:
        pin = read_pin(uri.pin)
        tried = hashlib.sha256(bytes(token.serial) + b"\0" + pin.encode()).digest()
        if tried in self._refused:
            raise self._wrong_pin(uri)
        try:
            return token.open(rw=writing, user_pin=pin)
        except UserAlreadyLoggedIn:  # the login is the process's, whichever session it came by
            return token.open(rw=writing)
        except _REFUSED_PINS as error:
            self._refused.add(tried)
            raise self._wrong_pin(uri) from error

    @staticmethod
    def _wrong_pin(uri: Pkcs11Uri) -> ConfigError:
        return ConfigError(
            f"the token `{uri.token}` does not take the PIN in {uri.pin.words}: it is not tried "
            "again until another one is there, because tokens lock themselves"
        )


_modules: dict[Path, _Module] = {}
_adding = threading.Lock()


@contextmanager
def _using(path: Path) -> Iterator[_Module]:
    """Give the module to one thread, and say whatever it raises in our words."""
    with _adding:
        module = _modules.setdefault(path, _Module(path))
    if not module.lock.acquire(timeout=SECONDS):
        raise UnavailableError(f"the module `{path}` has not answered for {SECONDS:g} seconds")
    try:
        yield module
    except PKCS11Error as error:
        module.restart()
        raise UnavailableError(
            f"the module `{path}` failed ({type(error).__name__}): look at its token"
        ) from error
    except (ConfigError, UnavailableError):
        module.restart()  # whatever is mended meanwhile is looked for anew
        raise
    finally:
        module.lock.release()


def _token_of(uri: Pkcs11Uri) -> tuple[object, ...]:
    return (uri.token, uri.serial, uri.manufacturer, uri.model)


def _token(library: Any, uri: Pkcs11Uri) -> pkcs11.Token:
    found: list[pkcs11.Token] = [
        token
        for token in library.get_tokens(token_label=uri.token)
        if uri.serial in {None, bytes(token.serial).decode("utf-8", "replace")}
        and uri.manufacturer in {None, token.manufacturer_id}
        and uri.model in {None, token.model}
    ]
    if not found:
        raise UnavailableError(
            f"there is no token `{uri.token}` of that kind: plug it in, or see with "
            f"`{shlex.join(['pkcs11-tool', '--module', str(uri.module), '--list-slots'])}`"
        )
    if len(found) > 1:
        raise ConfigError(
            f"there are several tokens `{uri.token}`: tell them apart with `serial=…`"
        )
    return found[0]


def _keys(session: pkcs11.Session, uri: Pkcs11Uri, kind: ObjectClass) -> list[pkcs11.Object]:
    wanted: dict[Attribute, object] = {Attribute.CLASS: kind, Attribute.LABEL: uri.object}
    if uri.id is not None:
        wanted[Attribute.ID] = uri.id
    return list(session.get_objects(wanted))


def _require_ours(path: Path) -> None:
    """Refuse to run code inside the authority that somebody else may write."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"the module `{path}` cannot be used: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the module `{path}` is no file")
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & _OTHERS_WRITE:
        raise ConfigError(f"others may write the module `{path}`, which would run inside Remit")
