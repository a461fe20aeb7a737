"""A PKCS#11 URI names one key and no secret; whatever is not understood is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.keystore.uri import MAX_CHARACTERS, PinSource, parse_uri
from remit.model.errors import ConfigError

MODULE = "module-path=/usr/lib/softhsm/libsofthsm2.so"
PIN = "pin-source=file:/etc/remit/pin"
QUERY = f"?{MODULE}&{PIN}"


def test_a_uri_is_read():
    found = parse_uri(f"pkcs11:token=My%20token;object=l%C3%B6g;id=%01%ff;type=private{QUERY}")
    assert (found.token, found.object, found.id) == ("My token", "lög", b"\x01\xff")
    assert found.module == Path("/usr/lib/softhsm/libsofthsm2.so")
    assert found.pin == PinSource(file=Path("/etc/remit/pin"))
    assert found.shown == "pkcs11:token=My%20token;object=l%C3%B6g;id=%01%ff;type=private"


def test_a_token_is_told_from_another_of_its_name():
    found = parse_uri(f"pkcs11:token=t;object=o;serial=00ff;manufacturer=ACME;model=X{QUERY}")
    assert (found.serial, found.manufacturer, found.model) == ("00ff", "ACME", "X")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("file:/etc/pin", PinSource(file=Path("/etc/pin"))),
        ("file:///etc/pin", PinSource(file=Path("/etc/pin"))),
        ("env:REMIT_PIN", PinSource(variable="REMIT_PIN")),
    ],
)
def test_the_pin_lies_in_a_file_or_a_variable(source: str, found: PinSource):
    assert parse_uri(f"pkcs11:token=t;object=o?{MODULE}&pin-source={source}").pin == found


HOSTILE = {
    "another scheme": "file:/etc/passwd",
    "nothing": "pkcs11:",
    "upper case scheme": f"PKCS11:token=t;object=o{QUERY}",
    "no token": f"pkcs11:object=o{QUERY}",
    "no object": f"pkcs11:token=t{QUERY}",
    "empty token": f"pkcs11:token=;object=o{QUERY}",
    "empty object": f"pkcs11:token=t;object={QUERY}",
    "empty id": f"pkcs11:token=t;object=o;id={QUERY}",
    "empty attribute": f"pkcs11:token=t;;object=o{QUERY}",
    "trailing separator": f"pkcs11:token=t;object=o;{QUERY}",
    "twice": f"pkcs11:token=t;object=o;object=p{QUERY}",
    "twice in the query": f"pkcs11:token=t;object=o{QUERY}&{PIN}",
    "query attribute in the path": f"pkcs11:token=t;object=o;{MODULE}?{PIN}",
    "path attribute in the query": f"pkcs11:token=t{QUERY}&object=o",
    "unknown attribute": f"pkcs11:token=t;object=o;slot-id=1{QUERY}",
    "vendor attribute": f"pkcs11:token=t;object=o;x-other=1{QUERY}",
    "no value": f"pkcs11:token=t;object{QUERY}",
    "public key": f"pkcs11:token=t;object=o;type=public{QUERY}",
    "certificate": f"pkcs11:token=t;object=o;type=cert{QUERY}",
    "bare percent": f"pkcs11:token=t%;object=o{QUERY}",
    "half a percent": f"pkcs11:token=t%2;object=o{QUERY}",
    "no hex": f"pkcs11:token=t%zz;object=o{QUERY}",
    "no UTF-8": f"pkcs11:token=%ff;object=o{QUERY}",
    "overlong UTF-8": f"pkcs11:token=%c0%af;object=o{QUERY}",
    "NUL": f"pkcs11:token=t%00;object=o{QUERY}",
    "newline": f"pkcs11:token=t%0a;object=o{QUERY}",
    "newline at the end": f"pkcs11:token=t;object=o{QUERY}\n",
    "escape": f"pkcs11:token=%1b[31m;object=o{QUERY}",
    "right to left": f"pkcs11:token=%e2%80%ae;object=o{QUERY}",
    "unescaped space": f"pkcs11:token=my token;object=o{QUERY}",
    "unescaped letters": f"pkcs11:token=tök;object=o{QUERY}",
    "a label too long": f"pkcs11:token={'t' * 33};object=o{QUERY}",
    "a label too long in bytes": f"pkcs11:token={'%c3%b6' * 17};object=o{QUERY}",
    "an object too long": f"pkcs11:token=t;object={'o' * 256}{QUERY}",
    "too long": f"pkcs11:token=t;object=o{QUERY}{'/x' * MAX_CHARACTERS}",
    "no query": "pkcs11:token=t;object=o",
    "no module": f"pkcs11:token=t;object=o?{PIN}",
    "relative module": f"pkcs11:token=t;object=o?module-path=libsofthsm2.so&{PIN}",
    "empty module": f"pkcs11:token=t;object=o?module-path=&{PIN}",
    "module by name": f"pkcs11:token=t;object=o?module-name=softhsm2&{PIN}",
    "no pin": f"pkcs11:token=t;object=o?{MODULE}",
    "a program for the pin": f"pkcs11:token=t;object=o?{MODULE}&pin-source=|/bin/pin",
    "another program": f"pkcs11:token=t;object=o?{MODULE}&pin-source=exec:/bin/pin",
    "a bare path for the pin": f"pkcs11:token=t;object=o?{MODULE}&pin-source=/etc/pin",
    "a relative pin file": f"pkcs11:token=t;object=o?{MODULE}&pin-source=file:pin",
    "a pin on another host": f"pkcs11:token=t;object=o?{MODULE}&pin-source=file://host/pin",
    "a pin nowhere": f"pkcs11:token=t;object=o?{MODULE}&pin-source=file:",
    "no variable": f"pkcs11:token=t;object=o?{MODULE}&pin-source=env:",
    "a variable with an equals sign": f"pkcs11:token=t;object=o?{MODULE}&pin-source=env:A%3dB",
    "a fragment": f"pkcs11:token=t;object=o{QUERY}#x",
}


@pytest.mark.parametrize("uri", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_understood_is_refused(uri: str):
    with pytest.raises(ConfigError, match=r"PKCS#11 URI"):
        parse_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        f"pkcs11:token=t;object=o{QUERY}&pin-value=s3cr3t",
        f"pkcs11:token=t;object=o;pin-value=s3cr3t{QUERY}",
        f"pkcs11:token=t;object=o;pin-valu=s3cr3t{QUERY}",
        f"pkcs11:token=t;object=o?{MODULE}&pin-source=s3cr3t",
        f"pkcs11:token=t;object=o;s3cr3t{QUERY}",
    ],
)
def test_a_pin_in_the_uri_is_refused_and_not_shown(uri: str):
    with pytest.raises(ConfigError) as refused:
        parse_uri(uri)
    assert "s3cr3t" not in str(refused.value)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_is_anything_but_read_or_refused(path: str, query: str):
    for uri in (path, f"pkcs11:{path}?{query}", f"pkcs11:token=t;object=o{QUERY}{query}"):
        try:
            found = parse_uri(uri)
        except ConfigError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either way is fine
        else:
            assert found.module.is_absolute()
