"""The archive of bundles: what it hands out is what decided, or it says that it cannot."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from remit.app.bundles import BundleArchive
from remit.app.config import load
from remit.app.policy_tools import check_bundle, run_cases
from remit.model.errors import ConfigError, EvidenceError, NotFoundError, ProofError
from remit.policy.bundle import Bundle
from remit.policy.check import check
from remit.policy.loading import default_folder


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return check(default_folder()).require()


@pytest.fixture
def archive(tmp_path: Path, bundle: Bundle) -> BundleArchive:
    made = BundleArchive(tmp_path / "bundles")
    made.keep(bundle)
    return made


def kept(folder: Path) -> Path:
    (file,) = (folder / "bundles").iterdir()
    return file


def test_a_kept_bundle_comes_back_byte_for_byte(archive: BundleArchive, bundle: Bundle):
    assert dict(archive.files(bundle.digest)) == dict(bundle.files)
    assert Bundle.of(archive.files(bundle.digest)).digest == bundle.digest


def test_the_archive_is_the_owners_alone(archive: BundleArchive, tmp_path: Path):
    assert stat.S_IMODE((tmp_path / "bundles").stat().st_mode) == 0o700
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b'{"a.cedar": "AAAA"}', b"\xff\xfe"])
def test_a_damaged_bundle_is_refused_and_kept_anew(
    archive: BundleArchive, tmp_path: Path, bundle: Bundle, damage: bytes
):
    kept(tmp_path).write_bytes(damage)
    with pytest.raises(ProofError, match="altered"):
        archive.files(bundle.digest)
    archive.keep(bundle)
    assert dict(archive.files(bundle.digest)) == dict(bundle.files)


def test_what_was_never_kept_is_not_found(archive: BundleArchive):
    with pytest.raises(NotFoundError):
        archive.files("sha256:" + "0" * 64)


def test_a_bundle_that_cannot_be_kept_is_an_evidence_error(tmp_path: Path, bundle: Bundle):
    (tmp_path / "bundles").write_text("a file where the folder should be")
    with pytest.raises(EvidenceError, match="cannot be kept"):
        BundleArchive(tmp_path / "bundles").keep(bundle)


def test_a_bundle_that_fails_its_check_is_reported_and_runs_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bad.cedar").write_text("permit (principal, action")
    report = check_bundle(tmp_path / "b", load(None))
    assert report["ok"] is False
    assert report["digest"] is None
    assert report["findings"]
    with pytest.raises(ConfigError):
        run_cases(tmp_path / "b", load(None))


def test_a_folder_that_is_not_there_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    try:
        report = check_bundle(tmp_path / "nothing", load(None))
    except ConfigError:
        return
    assert report["ok"] is False
