from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from external import cases

from remit.model.errors import ConfigError
from remit.policy import loading
from remit.policy.bundle import Bundle
from remit.policy.cases import run
from remit.policy.check import Level, check
from remit.policy.facts import gather
from remit.policy.facts_page import page
from remit.policy.loading import default_folder, read_cases, read_folder

GOOD = '@id("all") @reason("all") @control("x:1") permit (principal, action, resource);\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "policy"
    (place / "templates").mkdir(parents=True)
    (place / "main.cedar").write_text(GOOD)
    (place / "templates" / "a.toml").write_text('purpose = "x"\n')
    return place


def _errors(folder: Path, **options: object) -> str:
    return "\n".join(str(f) for f in check(folder, **options).errors)  # type: ignore[arg-type]


def test_the_digest_is_over_the_manifest_of_every_file(folder: Path):
    bundle = Bundle.of(read_folder(folder))
    assert set(bundle.manifest) == {"main.cedar", "templates/a.toml", "schema.cedarschema"}
    assert list(bundle.templates) == ["templates/a.toml"]
    before = bundle.digest
    (folder / "templates" / "a.toml").write_text('purpose = "y"\n')
    assert Bundle.of(read_folder(folder)).digest != before
    assert bundle.record().body["bundle"] == before


def test_cases_and_strays_are_no_part_of_a_bundle(folder: Path):
    before = Bundle.of(read_folder(folder)).digest
    (folder / "cases").mkdir()
    (folder / "cases" / "a.yaml").write_text("[]")
    (folder / "README.md").write_text("x")
    (folder / ".hidden.cedar").write_text("x")
    checked = check(folder)
    assert checked.require().digest == before
    assert [f.where for f in checked.findings if "no part" in f.message] == ["README.md"]


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text(GOOD.replace("all", "b"))
    (folder / "b.cedar").symlink_to(secret)
    assert "outside" in _errors(folder)


def test_a_folder_linked_in_from_outside_is_refused(folder: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "t.toml").write_text("x = 1")
    (folder / "templates" / "a.toml").unlink()
    (folder / "templates").rmdir()
    (folder / "templates").symlink_to(other)
    assert "outside" in _errors(folder)


def test_links_inside_the_folder_are_read_as_a_mounted_volume_has_them(folder: Path):
    (folder / "..v1").mkdir()
    (folder / "main.cedar").rename(folder / "..v1" / "main.cedar")
    (folder / "main.cedar").symlink_to("..v1/main.cedar")
    assert check(folder).bundle is not None


def test_a_pipe_does_not_hang_the_reader(folder: Path):
    os.mkfifo(folder / "b.cedar")
    assert "not a regular file" in _errors(folder)


def test_size_is_bounded_by_file_by_count_and_in_all(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(loading, "MAX_FILE_BYTES", 10)
        assert "more than 10 bytes" in _errors(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "MAX_FILES", 1)
        assert "more than 1 files" in _errors(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "MAX_BUNDLE_BYTES", 20)
        assert "more than 20 bytes" in _errors(folder)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "MAX_ENTRIES", 1)
        assert "entries" in _errors(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("permit (", "main.cedar"),
        ("\udcff", "not UTF-8"),
        ("permit (principal, action, resource);", "has no @id"),
        ('@id("A b") @reason("x") permit (principal, action, resource);', "its @id"),
        ('@id("remit.x") @reason("x") permit (principal, action, resource);', "taken"),
        ('@id("x") permit (principal, action, resource);', "has no @reason"),
        ('@id("x") @reason("{arguments}") permit (principal, action, resource);', "placeholder"),
        (GOOD + GOOD, "same @id"),
        (
            '@id("x") @reason("x") permit (principal, action, resource) when { context.nothing };',
            "nothing",
        ),
        (
            '@id("x") @reason("x") permit (principal, action, resource) when { context.tool.state > 1 };',
            "x",
        ),
        (
            '@id("x") @reason("x") permit (principal, action, resource) when { context.arguments.getTag("a") == "b" };',
            "tag",
        ),
        (
            '@id("x") @reason("x") permit (principal, action, resource) when { context.mandate.calls_left > 1 };',
            "optional",
        ),
        ('@id("x") @reason("x") permit (principal, action == Action::"fly", resource);', "fly"),
        ('@id("x") @reason("x") permit (principal == ?principal, action, resource);', "slots"),
    ],
)
def test_a_bundle_with_a_fault_never_becomes_one(folder: Path, text: str, told: str):
    (folder / "main.cedar").write_bytes(text.encode("utf-8", "surrogateescape"))
    checked = check(folder)
    assert checked.bundle is None
    assert told in _errors(folder)
    with pytest.raises(ConfigError):
        checked.require()


def test_a_policy_that_can_never_apply_is_told(folder: Path):
    dead = (
        '@id("dead") @reason("x") @remedy("x") forbid (principal, action, resource) when { 1 > 2 };'
    )
    (folder / "main.cedar").write_text(GOOD + dead)
    checked = check(folder)
    assert checked.bundle is not None
    assert [f.where for f in checked.findings if "never apply" in f.message] == ["main.cedar: dead"]


def test_another_schema_is_refused(folder: Path):
    (folder / "schema.cedarschema").write_text("entity Agent;")
    assert "schema" in _errors(folder)


def test_templates_are_checked_by_whoever_understands_them(folder: Path):
    def refuse(files: object) -> None:
        raise ConfigError(f"bad template in {sorted(files)}")  # type: ignore[call-overload]

    assert "bad template in ['templates/a.toml']" in _errors(folder, check_templates=refuse)


def test_templates_may_lie_elsewhere_but_not_in_both_places(folder: Path, tmp_path: Path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "b.toml").write_text("x = 1")
    assert "templates/b.toml" in read_folder(folder, other)
    (other / "a.toml").write_text("x = 1")
    with pytest.raises(ConfigError, match="and in"):
        read_folder(folder, other)


def test_no_folder_and_an_empty_one_are_told(tmp_path: Path):
    assert "not a folder" in _errors(tmp_path / "none")
    assert "holds no policy" in _errors(tmp_path)


def test_the_shipped_bundle_passes_its_check_without_a_warning():
    assert check(default_folder()).findings == ()


def test_the_shipped_bundle_passes_its_cases_and_they_exercise_every_policy(shipped: Bundle):
    report = run(shipped, read_cases(default_folder()))
    assert [str(failure) for failure in report.failures] == []
    assert report.unexercised == ()
    assert report.ok


def test_every_control_the_shipped_bundle_claims_exists(shipped: Bundle):
    known = yaml.safe_load(cases("controls/controls.yaml").read_text())["controls"]
    ids = {f"{control['framework']}:{control['id']}" for control in known}
    claimed = {control for source in shipped.sources for control in source.controls}
    assert claimed <= ids


def test_a_thousand_policies_are_sliced_by_action(bundle_of: Callable[..., Bundle]):
    text = GOOD + "".join(
        f'@id("p{n}") @reason("p") forbid (principal, action == Action::"get_prompt", resource == Target::"u/{n}");\n'
        for n in range(1000)
    )
    bundle = bundle_of(text)
    assert len(bundle.slices["call_tool"].sources) == 1
    assert len(bundle.slices["get_prompt"].sources) == 1001


def test_what_no_policy_reads_does_not_reach_cedar(
    shipped: Bundle, question: Callable[..., object]
):
    context, entities = shipped.slices["call_tool"].cut(gather(question(), shipped.digest))  # type: ignore[arg-type]
    assert "time" not in json.loads(context)
    assert "calls_left" not in json.loads(context)["mandate"]
    assert entities == ""


def test_the_page_of_facts_is_current():
    written = Path(__file__).parents[3] / "docs" / "policy.md"
    assert written.read_text() == page(), "run: python -m remit.policy.facts_page > docs/policy.md"


def test_the_pages_own_policy_passes_the_check(folder: Path):
    example = page().partition("```cedar\n")[2].partition("```")[0]
    (folder / "example.cedar").write_text(example)
    assert check(folder).findings == ()


def test_a_finding_says_what_where_and_how_bad(folder: Path):
    (folder / "main.cedar").write_text(
        '@id("x") @reason("x") permit (principal, action, resource);'
    )
    finding = check(folder).findings[0]
    assert finding.level is Level.WARNING
    assert str(finding) == "warning: main.cedar: x: has no @control"
