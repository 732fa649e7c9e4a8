"""The build command with a recipe whose packages cost nothing: what is built, compared, published, told."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.audit import dsse, freshness
from pipeline.commands import clean, preparation, shell
from pipeline.commands.build import BuildCommand
from pipeline.commands.build_summary import BuildResult, Summary
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core import documents
from pipeline.core.console import Console
from pipeline.core.decoder import encode
from pipeline.core.fs import sha256_of
from pipeline.errors import BuildFailed, ExitCode, PipelineError, Refused, UsageError
from pipeline.packaging import job, step_record
from pipeline.packaging.ccache import CacheStatistics
from pipeline.packaging.graph import Step, StepGraph, Work
from pipeline.packaging.step_record import Facts
from pipeline.publish import signers, signing
from pipeline.publish.layout import PUBLISH
from pipeline.sandbox.runtime import Image, Job
from pipeline.sources.records import Verified
from pipeline.sources.resolver import Sources
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import person, rpm
from tests.fixtures.workshop import ToyShop

MADE = {
    "kernel:stock": ("kernel",),
    "ipvsadm": ("ipvsadm",),
    "keepalived": ("keepalived",),
    "role-packages": ("lvs-fnat-director", "lvs-fnat-realserver"),
}
_runs = itertools.count()


class ToyJob(BuildCommand):
    """The build command with steps that copy packages. What `changing` names comes out different each time."""

    changing: tuple[str, ...] = ()
    signing: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    failing_rebuilt: tuple[str, ...] = ()
    watching: ClassVar[Callable[[Any, Work], None]] = lambda _, work: None

    def plan(self) -> StepGraph:
        steps = [self._toy(name) for name in MADE]
        whole = StepGraph([*steps, self.publishing.step([step.name for step in steps])])
        return whole.only(self.context.settings.only) if self.context.settings.only else whole

    def _toy(self, name: str) -> Step:
        def action(work: Work) -> None:
            self.watching(work)
            if name in self.failing or (name in self.failing_rebuilt and not work.compiler_cache):
                raise BuildFailed(f"{name} failed", hint="look at it")
            (work.out / "rpms").mkdir()
            for package in MADE[name]:
                text = f"run {next(_runs)}" if name in self.changing else "always"
                shutil.copy(rpm(package, text=text), work.out / "rpms")
            if name == "kernel:stock" and work.compiler_cache:
                work.facts.ccache = CacheStatistics(3, 1)

        return Step(name, action, differs="its key is made by each build" if name in self.signing else "")

    def _look(self) -> None:
        """Nothing is fetched here."""


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    """Made before any test: they are the same in all."""
    for package in itertools.chain(*MADE.values()):
        rpm(package, text="always")


class Bench:
    """A job and what it says; `job` is made anew for each run."""

    def __init__(self, place: Path) -> None:
        self.artifacts = place / "artifacts"
        self.said = ""
        self.kind: type[ToyJob] = type("Job", (ToyJob,), {})  # to be told how to behave

    def job(self, **settings: Any) -> ToyJob:
        self.out = io.StringIO()
        console = Console(quiet=True, out=self.out)
        given = load({"artifacts": str(self.artifacts), **settings}, {})
        made: ToyJob = self.kind(line_loader.load("lts61"), RunContext(given, console))
        return made

    def build_all(self, **settings: Any) -> Any:
        try:
            return json.loads(documents.to_json(self.job(**settings).build_all()))
        finally:
            self.said = self.out.getvalue()

    def build(self, *names: str, role: str = "", **settings: Any) -> Any:
        try:
            return json.loads(documents.to_json(self.job(**settings).build(names, role)))
        finally:
            self.said = self.out.getvalue()

    @property
    def latest(self) -> Path:
        return self.artifacts / "repo" / "lts61" / "latest"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(tmp_path)


def test_a_held_snapshot_becomes_the_latest_only_when_a_run_makes_it_that(bench: Bench) -> None:
    old = bench.build_all()["snapshot"]["id"]
    job = bench.job(baseurl="http://other.example")
    job.hold = True
    held = job.build_all()
    assert isinstance(held, BuildResult)
    stated = bench.latest.parent / "attestations" / freshness.FILE
    assert old == bench.latest.resolve().name != held.snapshot and old.encode() in dsse.payload(stated.read_bytes())
    assert f"held, {bench.latest} stays as it is" in bench.out.getvalue()
    assert bench.build_all()["steps"]["repository"]["state"] == "reused"
    assert bench.latest.resolve().name == held.snapshot
    assert held.snapshot.encode() in dsse.payload(stated.read_bytes())


def test_a_published_snapshot_is_found_from_every_working_directory(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench.artifacts = Path("artifacts")
    first = bench.build_all()["snapshot"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    bench.artifacts = tmp_path / "artifacts"
    again = bench.build_all()
    assert again["steps"]["repository"]["state"] == "reused"
    assert again["snapshot"]["path"] == str(tmp_path / first["path"])
    assert not list((tmp_path / "elsewhere").iterdir())


def test_every_package_is_told_with_digest_size_and_whether_it_was_reused(bench: Bench) -> None:
    said = bench.build_all()
    packages = {package["file"]: package for package in said["packages"]}
    assert len(packages) == 5
    for name, package in packages.items():
        unsigned = Path(package["unsigned"])
        assert (package["sha256"], package["size"]) == (sha256_of(unsigned), unsigned.stat().st_size)
        assert package["state"] == "ran" and unsigned.name == name
        assert f"{package['sha256'][:16]}…" in bench.said and package["sha256"] not in bench.said
    assert said["snapshot"]["path"] == str(bench.latest.resolve())
    again = bench.build_all()
    assert {package["state"] for package in again["packages"]} == {"reused"}
    assert "5 steps in " in bench.said and "5 of them reused" in bench.said
    assert [p["sha256"] for p in again["packages"]] == [p["sha256"] for p in said["packages"]]


def test_the_compiler_caches_rate_is_told_of_the_steps_of_this_run_only(bench: Bench) -> None:
    said = bench.build_all()
    assert said["ccache"] == {"hits": 3, "misses": 1, "steps": {"kernel:stock": {"hits": 3, "misses": 1}}}
    assert "kernel:stock: the compiler cache had 3 of 4 compilations (75.0 %)" in bench.said
    made = step_record.read(Path(said["steps"]["kernel:stock"]["out"]).parent)
    assert made.facts == Facts(ccache=CacheStatistics(3, 1))
    assert bench.build_all()["ccache"] == {"hits": 0, "misses": 0, "steps": {}}
    assert "compiler cache" not in bench.said


def test_build_makes_the_named_packages_only_and_publishes_nothing(bench: Bench) -> None:
    said = bench.build("ipvsadm", "role-packages")
    assert list(said["steps"]) == ["ipvsadm", "role-packages"]
    assert said["snapshot"] is None and not (bench.artifacts / "repo").exists()
    again = f"./inv build-all --line lts61 --artifacts {bench.artifacts}"
    assert f"neither signed nor published: `{again}` does both" in bench.said
    assert str(Path(said["packages"][0]["unsigned"]).parent) in bench.said
    whole = bench.build_all()["steps"]
    assert {name: step["state"] for name, step in whole.items()} == {
        "kernel:stock": "ran", "ipvsadm": "reused", "keepalived": "ran", "role-packages": "reused", PUBLISH: "ran",
    }  # fmt: skip


@pytest.mark.parametrize("role", ["", "stock"])
def test_build_kernel_takes_every_role_or_the_one_that_is_named(bench: Bench, role: str) -> None:
    assert list(bench.build("kernel", role=role)["steps"]) == ["kernel:stock"]


NAMES = "kernel, ipvsadm, keepalived, role-packages, userland"


@pytest.mark.parametrize(
    ("names", "role", "what", "why"),
    [
        (("kernle",), "", "package 'kernle': not found; did you mean kernel?", f"known: {NAMES}"),
        (("ipvsadm", "x", "y"), "", "package 'x', 'y': not found", f"known: {NAMES}"),
        ((), "", "packages: none named; expected one or more", f"names: {NAMES}"),
        (("ipvsadm",), "stock", "--role: expected kernel among the packages, got ipvsadm", ""),
        (("kernel",), "x", "role of the line lts61 'x': not found", "known: director, realserver, stock"),
    ],
)
def test_a_wrong_name_or_role_is_refused_with_those_there_are(
    bench: Bench, names: tuple[str, ...], role: str, what: str, why: str
) -> None:
    with pytest.raises(UsageError) as refused:
        bench.build(*names, role=role)
    assert (refused.value.what, refused.value.why) == (what, why)
    assert not (bench.artifacts / "steps").exists()


def test_the_command_line_takes_the_names_as_words(tmp_path: Path) -> None:
    ended = Inv(tmp_path)("build", "ipvsadm", "kernle", "--role", "stock", expect=ExitCode.USAGE)
    assert "NAME of build 'kernle': not found; did you mean kernel?" in ended.err


def test_a_failure_still_tells_what_was_built(bench: Bench) -> None:
    bench.kind.failing = ("keepalived",)
    with pytest.raises(BuildFailed, match="keepalived failed"):
        bench.build_all(keep_going=True)
    assert "ipvsadm-1.2.1-fnat.0.noarch.rpm" in bench.said and "keepalived-1.2.1" not in bench.said
    assert not bench.latest.exists()


# --- Whose signature -----------------------------------------------------------------------------------


def recorded(bench: Bench) -> str:
    return signers.recorded_fingerprint(bench.artifacts, "lts61")


def test_who_signed_is_recorded_apart_from_the_snapshot(bench: Bench) -> None:
    said = bench.build_all(gpg_key=str(person("packager").secret))
    assert recorded(bench) == said["snapshot"]["fingerprint"] == person("packager").fingerprint
    assert not signers.record_path(bench.artifacts, "lts61").is_relative_to(bench.artifacts / "repo")


def test_a_lost_record_of_the_signer_is_made_again(bench: Bench) -> None:
    first = bench.build_all()["snapshot"]
    signers.record_path(bench.artifacts, "lts61").unlink()
    again = bench.build_all()
    assert (again["steps"][PUBLISH]["state"], again["snapshot"]["id"]) == ("ran", first["id"])
    assert recorded(bench) == first["fingerprint"]


@pytest.mark.parametrize("before", ["nothing", "another key's"])
@pytest.mark.parametrize("key", ["expired", "absent", "endless", "public"])
def test_a_key_that_cannot_sign_is_told_before_anything_is_built(
    bench: Bench, tmp_path: Path, key: str, before: str
) -> None:
    files = {
        "expired": person("late", expires="1y", clock="20200101T120000").secret,
        "absent": tmp_path / "absent",
        "endless": Path("/dev/zero"),
        "public": person("packager").public,
    }
    if before != "nothing":
        bench.build_all()
    bench.kind.changing = tuple(MADE)
    with pytest.raises(Refused if key == "expired" else UsageError, match="signing key"):
        bench.build_all(gpg_key=str(files[key]), force=list(MADE))
    assert not bench.said and not list(bench.artifacts.glob("steps/lts61/*/.failed"))
    assert bench.latest.exists() == (before != "nothing")


@pytest.mark.parametrize(
    "settings", [{"only": ["ipvsadm"]}, {"dry_run": True}, {}], ids=["only", "dry run", "all is published"]
)
def test_a_run_that_signs_nothing_starts_no_gpg(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    secret = str(person("packager").secret)
    if not settings:
        bench.build_all(gpg_key=secret)
    monkeypatch.setattr(signing, "open_signer", None)  # would be called
    bench.build_all(gpg_key=secret, **settings)


# --- Twice ---------------------------------------------------------------------------------------------


def test_two_builds_with_the_same_bytes_are_told_kept_as_evidence_and_published(bench: Bench) -> None:
    said = bench.build_all(check_reproducible=True)
    assert [(row["step"], row["same"]) for row in said["compared"]] == [
        ("kernel:stock", True), ("ipvsadm", True), ("keepalived", True),
        ("role-packages", True), ("role-packages", True),
    ]  # fmt: skip
    for row, package in zip(said["compared"], said["packages"], strict=True):
        assert row["first"] == row["second"] == package["sha256"]
        assert re.search(rf"{row['first'][:16]} +{row['second'][:16]} +the same", bench.said)
    assert {step["state"] for step in said["steps"].values()} == {"ran"}
    assert bench.latest.exists()
    evidence = json.loads((bench.artifacts / "evidence" / "lts61" / "reproducible.json").read_text())
    assert evidence["compared"] == said["compared"]
    assert not list(bench.artifacts.glob("steps/*+rebuild/")), "nobody needs the same bytes twice"


def test_packages_that_differ_end_with_5_named_kept_and_not_published(bench: Bench) -> None:
    bench.kind.changing = ("ipvsadm",)
    with pytest.raises(BuildFailed) as failed:
        bench.build_all(check_reproducible=True)
    assert failed.value.code is ExitCode.BUILD
    assert "1 of 5 packages differ between two builds" in failed.value.what
    assert "ipvsadm-1.2.1-fnat.0.noarch.rpm (step ipvsadm)" in failed.value.what
    assert "files that differ: /usr/share/fnat/ipvsadm" in failed.value.what
    assert not bench.latest.exists()
    [kept] = bench.artifacts.glob("steps/lts61+rebuild/ipvsadm/*/out/rpms/*.rpm")
    [first] = bench.artifacts.glob("steps/lts61/ipvsadm/*/out/rpms/*.rpm")
    assert sha256_of(kept) != sha256_of(first)


def test_the_second_build_is_made_anew_although_the_first_was_reused(bench: Bench) -> None:
    bench.kind.changing = ("ipvsadm",)
    bench.build("ipvsadm")
    for _ in range(2):
        with pytest.raises(BuildFailed, match="differ between two builds"):
            bench.build("ipvsadm", check_reproducible=True)


def test_a_second_build_that_was_kept_is_not_taken_for_the_next_one(bench: Bench) -> None:
    bench.kind.changing = ("ipvsadm",)
    with pytest.raises(BuildFailed, match="differ between two builds"):
        bench.build("ipvsadm", check_reproducible=True)
    bench.kind.changing = ()
    shutil.rmtree(bench.artifacts / "steps" / "lts61")
    said = bench.build("ipvsadm", check_reproducible=True)
    assert [row["same"] for row in said["compared"]] == [True]


def test_what_cannot_be_the_same_is_left_out_with_its_reason(bench: Bench) -> None:
    bench.kind.changing = bench.kind.signing = ("kernel:stock",)
    said = bench.build_all(check_reproducible=True)
    assert "kernel:stock is left out of the comparison: its key is made by each build" in bench.said
    assert "kernel:stock" not in [row["step"] for row in said["compared"]]
    evidence = json.loads((bench.artifacts / "evidence" / "lts61" / "reproducible.json").read_text())
    assert said["left_out"] == evidence["left_out"] == {"kernel:stock": "its key is made by each build"}
    assert bench.latest.exists()


def test_where_everything_is_left_out_nothing_is_built_again(bench: Bench) -> None:
    bench.kind.signing = ("kernel:stock",)
    said = bench.build("kernel", check_reproducible=True)
    assert said["compared"] == [] and list(said["left_out"]) == ["kernel:stock"]
    assert not list(bench.artifacts.glob("steps/*+rebuild"))


def test_a_second_build_that_fails_is_a_failure(bench: Bench) -> None:
    bench.kind.failing_rebuilt = ("ipvsadm",)
    with pytest.raises(PipelineError, match="in the second build, that of the comparison: ipvsadm failed") as failed:
        bench.build_all(check_reproducible=True)
    assert failed.value.hint == f"./inv build-all --check-reproducible --line lts61 --artifacts {bench.artifacts}"
    assert not bench.latest.exists()


def test_the_second_build_uses_no_compiler_cache(bench: Bench) -> None:
    job = bench.job()
    assert job.preparation.ccache("debian12") == bench.artifacts / "ccache" / "lts61" / "debian12"
    without = bench.job(no_ccache=True)
    assert without.preparation.ccache("debian12") is None and "--no-ccache" in without.options
    seen: list[tuple[str, bool]] = []
    bench.kind.watching = lambda _, work: seen.append((work.step.name, work.compiler_cache))
    bench.build("ipvsadm", check_reproducible=True)
    assert seen == [("ipvsadm", True), ("ipvsadm", False)]


# --- What comes before the image ------------------------------------------------------------------------

MAKERS = ("mmdebstrap", "docker", "bwrap")  # of images


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[ToyShop]:
    """A toy of el6, pinned, and no image anywhere."""
    with ToyShop.opened(tmp_path / "images") as shop:
        yield shop


def refused_without_an_image(shop: ToyShop, *words: str) -> str:
    """What a line is refused with; nothing that makes an image may be called before."""
    ended = shop.inv("build-all", *words, expect=ExitCode.REFUSED, **shop.inv.without_programs(*MAKERS))
    assert shop.inv.called == ""
    return ended.err


@pytest.mark.parametrize("image", ["auto", "debian12"])
def test_a_source_that_is_not_pinned_is_refused_before_an_image_is_made(shop: ToyShop, image: str) -> None:
    line_file = shop.toy.line_file
    line_file.with_suffix(".lock.toml").unlink()
    told = refused_without_an_image(shop, "--line-file", str(line_file), "--image", image)
    assert f"./inv pin toy kernel-srpm --line-file {line_file}" in told


def test_a_patch_in_the_wrong_series_is_refused_before_an_image_is_made(tmp_path: Path) -> None:
    with ToyShop.opened(tmp_path / "images", swap_patches=True) as shop:
        told = refused_without_an_image(shop, "--line-file", str(shop.toy.line_file))
    assert "the LVS-FULLNAT patch is in the realserver's series" in told


def test_an_image_that_the_line_is_not_built_in_is_refused_before_anything_is_fetched(shop: ToyShop) -> None:
    ended = shop.inv("build-all", *shop.line_words[:2], "--image", "fedora", expect=ExitCode.USAGE)
    assert "image of this line 'fedora': not found" in ended.err
    assert not list(shop.inv.artifacts.glob("evidence/*/sources.json"))


@pytest.mark.parametrize("image", ["auto", "debian12"])
def test_what_only_the_image_needs_is_fetched_once_it_is_known(
    shop: ToyShop, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For `auto`, once it has turned out which one it is."""
    fetches: list[str] = []
    fetch = Sources.fetch

    def fetching(self: Sources, image: str = "") -> list[Verified]:
        fetches.append(image)
        return fetch(self, image)

    monkeypatch.setattr(Sources, "fetch", fetching)
    monkeypatch.setattr(preparation, "builder", lambda *_, **__: Image("debian12", "0", Path(), Path()))
    given = {"artifacts": str(shop.inv.artifacts), "image": image, "debian_mirror": shop.archive.url}
    context = RunContext(load(given, {}), Console(quiet=True, out=io.StringIO()))
    plan = BuildCommand(line_loader.load(line_file=shop.toy.line_file), context).plan()
    assert {"openssl", "popt"} <= set(json.loads(plan.parts["keepalived"]["sources"]))
    assert fetches == list(dict.fromkeys([image, "debian12"]))


# --- In use --------------------------------------------------------------------------------------------


def cleaned_meanwhile(bench: Bench) -> ExitCode:
    """What cleaning everything away comes to."""
    return clean.clean(["all"], "", bench.job().context)[1]


def test_from_the_plan_to_the_summary_nothing_of_the_line_can_be_cleaned_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.build("ipvsadm")
    codes, tell = [], Summary.tell

    def telling(*words: Any, **named: Any) -> None:
        codes.append(cleaned_meanwhile(bench))
        tell(*words, **named)

    monkeypatch.setattr(Summary, "tell", telling)
    bench.build_all()
    assert codes == [ExitCode.LOCKED]
    assert cleaned_meanwhile(bench) is ExitCode.OK


def test_while_somebody_looks_around_in_what_failed_it_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.kind.failing = ("ipvsadm",)
    with pytest.raises(BuildFailed):
        bench.build("ipvsadm")
    codes = []

    def looks_around(*_: object) -> int:
        codes.append(cleaned_meanwhile(bench))
        return 0

    failed = Job(Image("toy", "0", Path(), Path()), ("true",), Path())
    monkeypatch.setattr(job, "load_failed_job", lambda directory: failed)
    monkeypatch.setattr(preparation.LazyRuntime, "shell", looks_around)
    job_of_line = bench.job()
    ended = shell.shell(job_of_line.line, "ipvsadm", job_of_line.context, job_of_line.options)
    assert encode(ended) == {"status": 0}
    assert codes == [ExitCode.LOCKED]
    assert (bench.artifacts / "steps" / "lts61" / "ipvsadm" / ".failed").is_dir()


# --- The commands that are told ------------------------------------------------------------------------


def test_what_is_told_to_type_names_the_line(bench: Bench, tmp_path: Path) -> None:
    elsewhere = ("--artifacts", str(bench.artifacts))
    assert bench.job().runner.options == ("--line", "lts61", *elsewhere)
    (tmp_path / "own.toml").write_text('schema = 1\nextends = "lts61"\nname = "own"\n')
    console = Console(quiet=True, out=io.StringIO())
    settings = load({"artifacts": str(bench.artifacts), "line_file": str(tmp_path / "own.toml")}, {})
    job = ToyJob(line_loader.load(None, settings.line_file), RunContext(settings, console))
    assert job.runner.options == ("--line-file", str(tmp_path / "own.toml"), *elsewhere)


def test_a_dry_run_says_which_image_would_be_made(bench: Bench) -> None:
    told = bench.build_all(dry_run=True)
    assert told["missing_image"] == "debian12"
    assert "the builder image debian12 would be made first" in bench.said
    assert not (bench.artifacts / "images").exists()
