"""moto in server mode, with the one thing of KMS that it leaves out, run as a program.

moto signs every message as one that it has to hash itself. One that is a digest already is signed
here as it is. Run with moto on the path: python moto_kms_server.py PORT
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey
from moto.server import main

given = threading.local()
original_sign, original_ecdsa = KmsResponse.sign, ECDSAPrivateKey.sign


def sign(self: Any) -> Any:
    given.digest = self._get_param("MessageType") == "DIGEST"
    return original_sign(self)


def sign_digest(self: Any, message: bytes, signing_algorithm: str) -> bytes:
    if not given.digest:
        return original_ecdsa(self, message, signing_algorithm)
    return self.private_key.sign(message, ec.ECDSA(Prehashed(hashes.SHA256())))


KmsResponse.sign, ECDSAPrivateKey.sign = sign, sign_digest

if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
