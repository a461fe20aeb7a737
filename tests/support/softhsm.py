"""A SoftHSM of a test's own: tokens in a folder that can be taken away and put back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import ROOT

from remit.keystore import pkcs11

REQUIRED = "REMIT_REQUIRE_REAL"
PIN = "73519428"
_PART = ROOT / ".cache" / "real" / "pkcs11"


def module() -> Path:
    """Return SoftHSM's module; skip or fail the test where it is not here."""
    for found in (*_PART.glob("usr/lib/softhsm/*.so"), Path("/usr/lib/softhsm/libsofthsm2.so")):
        if found.is_file():
            return found
    reason = "SoftHSM is not here: run .ci/real.d/pkcs11"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """Return a program of the same packages."""
    own = _PART / "usr" / "bin" / name
    return str(own) if own.exists() else name


@dataclass
class SoftHsm:
    """One folder of tokens, and the token ``remit`` in it."""

    folder: Path
    module: Path

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def pin(self) -> Path:
        return self.folder / "pin"

    @classmethod
    def lay(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
        """Make the token, with nothing in it."""
        made = cls(folder, module().resolve())
        made.tokens.mkdir(parents=True)
        conf = folder / "softhsm2.conf"
        conf.write_text(f"directories.tokendir = {made.tokens}\nobjectstore.backend = file\n")
        monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
        made.pin.write_text(PIN + "\n")
        made.pin.chmod(0o600)
        for each in pkcs11._modules.values():  # of another folder, in this process
            each.restart()
        made.initialize("remit")
        return made

    def initialize(self, label: str) -> None:
        """Make one more token."""
        self.run(
            *("softhsm2-util", "--module", str(self.module), "--init-token", "--free"),
            *("--label", label, "--pin", PIN, "--so-pin", PIN),
        )

    def uri(self, key: str = "log", *, token: str = "remit") -> str:
        """Return the URI of a key."""
        return (
            f"pkcs11:token={token};object={key}"
            f"?module-path={self.module}&pin-source=file:{self.pin}"
        )

    def tool(self, *arguments: str) -> str:
        """Run pkcs11-tool at the token, logged in."""
        return self.run(
            *("pkcs11-tool", "--module", str(self.module), "--token-label", "remit"),
            *("--login", "--pin", PIN, *arguments),
        )

    def take_away(self) -> None:
        """Pull the token out, as far as software can."""
        self.tokens.rename(self.folder / "away")

    def put_back(self) -> None:
        """Put it in again."""
        (self.folder / "away").rename(self.tokens)

    @staticmethod
    def run(command: str, *arguments: str) -> str:
        """Run a program; return what it says."""
        libraries: Sequence[Path] = sorted({p.parent for p in _PART.glob("usr/lib/**/libopensc*")})
        path = ":".join([*map(str, libraries), os.environ.get("LD_LIBRARY_PATH", "")]).strip(":")
        done = subprocess.run(
            [program(command), *arguments],
            env={**os.environ, **({"LD_LIBRARY_PATH": path} if path else {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
