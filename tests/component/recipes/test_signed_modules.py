"""The step of a package of modules with a module key: built by rpmbuild, signed outside of it, and packed by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pipeline.core import documents, process
from pipeline.errors import Refused
from pipeline.formats import archive
from pipeline.packaging import job, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes import modules
from pipeline.recipes.module_key import ModuleKey
from pipeline.recipes.modules import Parameters
from pipeline.sandbox.runtime import EndReason, Image, Job, JobResult, Limits
from tests.component.recipes.test_modules import EPOCH, TOY, UNAME, devel, module, tarball
from tests.fixtures.modulekeys import Pair, openssl, pair
from tests.fixtures.rpms import of_files

CONFIG = b"CONFIG_MODULE_SIG=y\nCONFIG_CRYPTO_SHA256=y\n"
MODULES = {"ip_vs": module() + b"one", "ip_vs_rr": module() + b"two"}


@dataclass
class Host:
    """A runtime that runs rpmbuild on this host, below the job's own directory; `seen` are the files each job had."""

    name: str = "host"
    seen: list[dict[str, bytes]] = field(default_factory=list)

    def run(self, job: Job) -> JobResult:
        [mount] = job.mounts
        files = (path for path in sorted(mount.source.rglob("*")) if path.is_file())
        self.seen.append({str(path.relative_to(mount.source)): path.read_bytes() for path in files})

        def here(text: str) -> str:
            return text.replace(rpmbuild.TOPDIR, str(mount.source)) if "buildhost" not in text else text

        env = {**process.clean_environment(), **{name: here(value) for name, value in job.environment.items()}}
        ended = process.run([here(word) for word in job.argv], env=env, timeout=120, accept=range(256))
        with job.log.open("ab") as log:
            log.write(ended.out + ended.err)
        return JobResult(EndReason.EXIT, ended.status)

    def shell(self, job: Job) -> int:
        raise AssertionError(job)

    def reap(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("own"))


@dataclass
class Bench:
    """A place in which the package is built."""

    place: Path
    runtime: Host = field(default_factory=Host)

    def build(self, key: ModuleKey, sources: Mapping[str, bytes] = MODULES, config: bytes = CONFIG) -> Path:
        """Build, sign and pack; return the directory of the packages."""
        parameters = replace(TOY, certificate=key.certificate)
        kernel = of_files("kernel", "6.1.187", "1.lts61", {f"/boot/config-{UNAME}": config})

        def fill(into: Path, specs: Path) -> None:
            tarball(into / "toy.tar", {f"{name}.c": data for name, data in sources.items()})
            modules.prepare(into, specs, parameters, [kernel, devel()])

        recipe = job.SpecBuild(modules.SPEC, EPOCH, fill, lambda *_: None, rpmbuild.Macros(ccache=False, dist=".lts61"))
        environment = job.BuildEnvironment(self.runtime, self.image, None, Limits(free=0))
        job.build_packages(self.work, environment, recipe)
        return modules.pack_signed(self.work, environment, recipe, parameters, key)

    def __post_init__(self) -> None:
        self.image = Image("debian12", "key", self.place / "rootfs", self.place / "packages.json")
        self.image.rootfs.mkdir(parents=True)
        self.image.packages.write_text("{}")
        self.work = Work(
            Step("package:toy-modules", print), self.place / "out", self.place / "scratch", self.place / "log", {}, 1
        )
        self.work.out.mkdir()
        self.work.scratch.mkdir()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "bench")


def signed_by(key: ModuleKey) -> Parameters:
    return replace(TOY, certificate=key.certificate)


def packed(rpms: Path) -> dict[str, bytes]:
    """The modules in the one package, by name."""
    [package] = rpms.glob("*.rpm")
    paths = {path.lstrip("/"): 1 << 20 for path in TOY.paths}
    return {Path(path).stem: data for path, data in archive.read(package, paths).items()}


def test_the_modules_that_were_built_are_signed_and_packed(bench: Bench, own: Pair, tmp_path: Path) -> None:
    key = own.opened()
    rpms = bench.build(key)
    found = packed(rpms)
    for name, built in MODULES.items():
        # By offsets and by openssl, and not by our own code.
        assert found[name].startswith(built) and found[name].endswith(b"~Module signature appended~\n")
        (tmp_path / "module").write_bytes(built)
        (tmp_path / "message").write_bytes(found[name][len(built) : -28 - 12])
        given = ("-inform", "DER", "-in", tmp_path / "message", "-content", tmp_path / "module")
        openssl("cms", "-verify", "-binary", *given, "-certfile", own.certificate, "-noverify", "-nointern")
    evidence = documents.to_json(modules.check(rpms, signed_by(key)))
    assert key.certificate.sha256 in evidence and "PRIVATE" not in evidence and "BEGIN" not in evidence


def test_the_second_build_has_nothing_of_the_first_and_neither_has_the_key(bench: Bench, own: Pair) -> None:
    bench.build(own.opened())
    first, second = bench.runtime.seen
    assert set(first) == {"SOURCES/toy.tar", f"SOURCES/kernel-devel-{UNAME}.rpm", "SPECS/modules.spec"}
    assert set(second) == {"SOURCES/ip_vs.ko", "SOURCES/ip_vs_rr.ko", "SPECS/modules.spec"}
    secret = own.key.read_bytes().splitlines()[1]
    assert not [name for seen in (first, second) for name, data in seen.items() if secret in data]
    assert b"make " not in second["SPECS/modules.spec"] and b"%prep" not in second["SPECS/modules.spec"]
    log = bench.work.log.read_text()
    assert log.count("# reproduce: ") == 2 and log.index("%prep") < log.rindex("# reproduce: ")


def test_the_same_key_gives_the_same_package_and_another_key_another(own: Pair, tmp_path: Path) -> None:
    other = pair(tmp_path, "other")
    one, two, three = (
        {path.name: path.read_bytes() for path in Bench(tmp_path / name).build(key.opened()).glob("*")}
        for name, key in (("one", own), ("two", own), ("three", other))
    )
    assert one == two and one.keys() == three.keys() and one != three


def test_a_package_signed_by_another_key_or_by_none_is_refused(bench: Bench, own: Pair, tmp_path: Path) -> None:
    rpms = bench.build(own.opened())
    with pytest.raises(Refused, match=r"ip_vs\.ko in toy-modules-.*: wrong signature; expected one by CN=Key other"):
        modules.check(rpms, signed_by(pair(tmp_path, "other").opened()))
    unsigned = Bench(tmp_path / "unsigned")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ModuleKey, "sign", lambda self, data, name: data)
        rpms = unsigned.build(own.opened())
    with pytest.raises(Refused, match=r"ip_vs\.ko in toy-modules-.*: not signed; expected a signature at its end"):
        modules.check(rpms, signed_by(own.opened()))


def test_a_module_that_its_own_sources_signed_is_refused(bench: Bench, own: Pair, tmp_path: Path) -> None:
    theirs = pair(tmp_path, "theirs").opened().sign(module(), "ip_vs.ko")
    with pytest.raises(Refused, match=r"/updates/ip_vs\.ko: signed already"):
        bench.build(own.opened(), {**MODULES, "ip_vs": theirs})


def test_what_is_not_a_module_of_this_kernel_is_not_signed(bench: Bench, own: Pair) -> None:
    with pytest.raises(Refused, match="not a module of this kernel"):
        bench.build(own.opened(), {**MODULES, "ip_vs": b"#!/bin/sh\n"})
    assert len(bench.runtime.seen) == 1


def test_a_kernel_that_checks_modules_must_have_the_digest_of_their_signatures(bench: Bench, own: Pair) -> None:
    with pytest.raises(Refused, match=r"expected CONFIG_CRYPTO_SHA256=y beside CONFIG_MODULE_SIG=y"):
        bench.build(own.opened(), config=b"CONFIG_MODULE_SIG=y\nCONFIG_CRYPTO_SHA512=y\n")
    bench.build(own.opened(), config=b"# CONFIG_MODULE_SIG is not set\n")
