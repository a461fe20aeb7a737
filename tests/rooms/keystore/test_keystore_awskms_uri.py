"""The URI of a key in AWS KMS is a whole ARN, and is read strictly."""

from __future__ import annotations

import pytest

from remit.keystore.awskms_uri import parse_uri
from remit.model.errors import ConfigError

ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY = f"arn:aws:kms:eu-central-1:111122223333:key/{ID}"
ALIAS = "arn:aws:kms:eu-central-1:111122223333:alias/remit/log_2-a"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("uri", "arn", "region", "alias", "endpoint"),
    [
        (f"awskms:///{KEY}", KEY, "eu-central-1", None, None),
        (f"awskms:///{ALIAS}", ALIAS, "eu-central-1", "alias/remit/log_2-a", None),
        (
            f"awskms://vpce-1.kms.eu-central-1.vpce.amazonaws.com/{KEY}",
            KEY,
            "eu-central-1",
            None,
            "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com",
        ),
        (f"awskms://kms.corp:8443/{KEY}", KEY, "eu-central-1", None, "https://kms.corp:8443"),
        (f"awskms://127.0.0.1:4566/{KEY}", KEY, "eu-central-1", None, "http://127.0.0.1:4566"),
        (f"awskms://localhost/{KEY}", KEY, "eu-central-1", None, "http://localhost"),
        (
            "awskms:///arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-" + "0af1" * 8,
            "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-" + "0af1" * 8,
            "us-gov-west-1",
            None,
            None,
        ),
    ],
)
def test_a_key_is_named_by_its_arn(
    uri: str, arn: str, region: str, alias: str | None, endpoint: str | None
):
    found = parse_uri(uri)
    assert (found.arn, found.region, found.alias) == (arn, region, alias)
    assert (found.endpoint, found.account, found.shown) == (endpoint, "111122223333", uri)


@pytest.mark.parametrize(
    "uri",
    [
        "awskms:",
        "awskms:///",
        f"awskms:{KEY}",
        f"awskms:/{KEY}",
        f"awskms://{KEY}",
        f"AWSKMS:///{KEY}",
        f"awskms:///{ID}",
        "awskms:///alias/remit-log",
        f"awskms:///{KEY}?region=us-east-1",
        f"awskms:///{KEY}#1",
        f"awskms:///{KEY}/",
        f"awskms:///{KEY}\n",
        f" awskms:///{KEY}",
        f"awskms:////{KEY}",
        f"awskms:///{KEY.upper()}",
        "awskms:///arn:aws:kms:eu-central-1:11112222333:alias/a",
        "awskms:///arn:aws:kms::111122223333:alias/a",
        "awskms:///arn:aws:kms:evil.example:111122223333:alias/a",
        "awskms:///arn:aws:kms:eu-central-1@x:111122223333:alias/a",
        "awskms:///arn:aws:iam:eu-central-1:111122223333:alias/a",
        "awskms:///arn:evil:kms:eu-central-1:111122223333:alias/a",
        "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/",
        "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/aws/s3",
        "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/a:b",
        "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/%61",
        "awskms:///arn:aws:kms:eu-central-1:111122223333:key/*",
        f"awskms:///arn:aws:kms:eu-central-1:111122223333:key/{ID}a",
        f"awskms:///arn:aws:kms:eu-central-1:\uff1111122223333:key/{ID}",
        f"awskms://user@kms.corp/{KEY}",
        f"awskms://user:pass@kms.corp/{KEY}",
        f"awskms://kms.corp:0/{KEY}",
        f"awskms://kms.corp:65536/{KEY}",
        f"awskms://kms.corp:/{KEY}",
        f"awskms://KMS.corp/{KEY}",
        f"awskms://kms..corp/{KEY}",
        f"awskms://-kms/{KEY}",
        f"awskms://[::1]/{KEY}",
        f"awskms://kms.corp\\x/{KEY}",
        "awskms:///arn:aws:kms:eu-central-1:111122223333:alias/" + "a" * 600,
    ],
)
def test_what_is_no_such_uri_is_refused(uri: str):
    with pytest.raises(ConfigError) as refused:
        parse_uri(uri)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        f"awskms:///{SECRET}",
        f"awskms://AKIAX:{SECRET}/{KEY}",
        f"awskms:///{KEY}?secret={SECRET}",
        f"awskms:{SECRET}",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(uri: str):
    with pytest.raises(ConfigError) as refused:
        parse_uri(uri)
    assert "wJalr" not in str(refused.value)
    assert "bPxRfi" not in str(refused.value)
