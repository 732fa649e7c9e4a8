"""A key or an address that a run was not given is that of the last publication: `latest` never goes back silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.publish.layout import PLACEHOLDER
from tests.component.commands.test_build import Bench
from tests.fixtures.rpms import person

ADDRESS = "https://rpms.example.org/fnat"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def repo_file(bench: Bench) -> str:
    return next(bench.latest.glob("*.repo")).read_text()


def test_without_an_address_the_files_name_a_placeholder_and_are_told_to(bench: Bench) -> None:
    bench.build_all()
    assert f"mirrorlist={PLACEHOLDER}/lts61" in repo_file(bench)
    assert "PLACEHOLDER ADDRESS" in repo_file(bench)
    assert f"a placeholder, {PLACEHOLDER}; publish with --baseurl URL" in bench.said


def test_a_forgotten_address_is_the_last_one(bench: Bench) -> None:
    bench.build_all()
    first = bench.build_all(baseurl=ADDRESS)["snapshot"]["id"]
    assert "placeholder" not in bench.said.lower() and "PLACEHOLDER" not in repo_file(bench)
    again = bench.build_all()
    assert again["steps"]["repository"]["state"] == "reused"
    assert again["snapshot"]["id"] == first == bench.latest.resolve().name
    assert bench.build_all(baseurl=PLACEHOLDER)["snapshot"]["id"] != first, "who names it gets it"


def test_a_forgotten_key_is_the_last_one_and_the_development_key_has_a_name(bench: Bench) -> None:
    first = bench.build_all(gpg_key=str(person("packager").secret))["snapshot"]
    assert not first["development"]
    assert bench.build_all()["snapshot"] == first
    assert bench.build_all(gpg_key="development")["snapshot"]["development"]
    assert bench.build_all()["snapshot"]["development"]


def test_a_small_build_has_an_address_of_its_own(bench: Bench) -> None:
    bench.build_all(baseurl=ADDRESS)
    assert (
        f"mirrorlist={PLACEHOLDER}"
        in Path(bench.build_all(kernel_config="small")["snapshot"]["path"])
        .joinpath("lts61-small-stock.repo")
        .read_text()
    )


def test_packages_that_are_built_to_be_compared_were_forced_by_nobody(bench: Bench) -> None:
    notes: list[str] = []
    job = bench.job(check_reproducible=True)
    job.runner.say = notes.append
    job.build_all()
    assert "ipvsadm: to be compared" in notes
    assert not [note for note in notes if note.endswith("forced")]
