"""The line el6's ipvsadm and keepalived, built by rpmbuild from the toy's tools, and what is refused of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.settings import load
from pipeline.core import process
from pipeline.core.console import Console
from pipeline.core.fs import sha256_of
from pipeline.errors import BuildFailed, Refused
from pipeline.formats import archive
from pipeline.packaging import rpmbuild
from pipeline.recipes.el6 import tools
from pipeline.recipes.el6.tools import HEADERS, LIBRARIES, Builder
from pipeline.recipes.lvs_tools import Tool
from pipeline.sources.records import Verified
from pipeline.sources.resolver import Sources
from tests.component.test_toy import build as build_kernel
from tests.fixtures.badserver import BadServer
from tests.fixtures.commandline import Inv
from tests.fixtures.debianarchive import Archive
from tests.fixtures.rpms import of_files
from tests.fixtures.targets import EL6
from tests.fixtures.toy import make_toy, tool_sources
from tests.fixtures.toy.libraries import add_libraries
from tests.fixtures.toy.patches import without_config
from tests.fixtures.toy.tarball import library_tarball, tools_tarball

RELEASE = "220.23.1.el6.fnat"
DEVEL = f"/usr/src/kernels/2.6.32-{RELEASE}.x86_64"
LINUX_IP_VS_H = b"#define IP_VS_CONN_F_FULLNAT 0x0005\n"
PROGRAMS = {"/usr/include/linux/ip_vs.h": LINUX_IP_VS_H, "/usr/include/drm/drm.h": b"/* not for us */\n"}
MODULES = {f"{DEVEL}/include/net/ip_vs.h": b"#include <linux/ip_vs.h>\n", f"{DEVEL}/include/net/tcp.h": b"\n"}
Change = Callable[[str], str]


def kernel(programs: dict[str, bytes] = PROGRAMS, modules: dict[str, bytes] = MODULES) -> list[Path]:
    """The director's packages, as far as keepalived is built for them."""
    return [
        of_files("kernel-devel", "2.6.32", RELEASE, modules),
        of_files("kernel-headers", "2.6.32", RELEASE, programs),
        of_files("kernel", "2.6.32", RELEASE, {"/boot/config": b"\n"}),
    ]


@pytest.fixture(scope="module")
def director() -> list[Path]:
    return kernel()


@dataclass
class Build:
    """A build of a tool in `top`, from the toy's sources; `changed` are texts of the tools, as the toy takes them."""

    top: Path
    tool: Tool
    kernel_rpms: Sequence[Path]
    log: Path
    parameters: tools.Parameters

    @classmethod
    def of(cls, top: Path, tool: Tool, kernel_rpms: Sequence[Path] = (), **changed: str) -> Build:
        rpmbuild.make_tree(top)
        files = {
            "lvs-tarball": tools_tarball(top, **changed),
            **{name: library_tarball(top, name) for name in ("popt", "openssl")},
        }
        verified = {
            name: Verified(name, path.name, path, sha256_of(path), path.stat().st_size, "", "", "", False)
            for name, path in files.items()
        }
        parameters = tools.of_line(EL6, tool, "debian12", verified)
        written = tools.prepare(top / "SOURCES", top / "SPECS", parameters, verified, kernel_rpms)
        assert all(path.is_file() for path in written)
        return cls(top, tool, kernel_rpms, top / "log", parameters)

    def run(self, change: Change = lambda text: text) -> Path:
        """rpmbuild, in which the recipe has its say about a failure; the directory of the packages."""
        spec = self.top / "SPECS" / self.parameters.spec
        changed = change(spec.read_text())
        spec.write_text(changed)
        macros = rpmbuild.Macros(topdir=str(self.top), ccache=False, payload="w1.gzdio", dist=EL6.build.dist)
        env = {**process.clean_environment(), **rpmbuild.environment(self.parameters.epoch, ccache="")}
        env["HOME"] = str(self.top / "tmp")
        argv = rpmbuild.build_argv(self.parameters.spec, macros)
        ended = process.run(argv, env=env, timeout=120, accept=range(256))
        self.log.write_text(ended.text + ended.error_text)
        if ended.status:
            tools.explain(self.log, self.parameters)
        assert ended.status == 0, self.log.read_text()
        return self.top / "RPMS"


def without(text: str) -> Change:
    """A spec file in which `text`, which must be there, is not."""

    def changed(spec: str) -> str:
        assert text in spec
        return spec.replace(text, "")

    return changed


@pytest.mark.parametrize("tool", Tool)
def test_a_static_tool_is_built_proven_and_runs(tmp_path: Path, director: list[Path], tool: Tool) -> None:
    build = Build.of(tmp_path / "one", tool, director)
    found = tools.check(rpms := build.run(), build.parameters)
    version = tools.VERSIONS[tool]
    assert found.package.nevra == f"{tool}-1:{version}-fnat.0.el6.x86_64"
    assert (found.libraries, found.static) == ([], True)
    rpm = next(rpms.rglob("*.rpm"))
    path = "sbin/ipvsadm" if tool is Tool.IPVSADM else "usr/sbin/keepalived"
    program = tmp_path / "program"
    program.write_bytes(archive.read(rpm, {path: 1 << 20})[path])
    program.chmod(0o755)
    said = process.run([str(program)]).text
    assert ("FullNat" if tool is Tool.IPVSADM else "FNAT") in said.split()
    again = Build.of(tmp_path / "two", tool, director).run()
    assert next(again.rglob("*.rpm")).read_bytes() == rpm.read_bytes(), "same inputs, same bytes"


def test_the_day_in_keepalived_is_that_of_its_source(tmp_path: Path, director: list[Path]) -> None:
    rpms = Build.of(tmp_path, Tool.KEEPALIVED, director).run()
    program = archive.read(next(rpms.rglob("*.rpm")), {"usr/sbin/keepalived": 1 << 20})["usr/sbin/keepalived"]
    assert b"Keepalived v1.2.2 (06/12,2012)\n" in program


def test_what_upstream_would_have_keepalived_do_at_once_is_not_installed(tmp_path: Path, director: list[Path]) -> None:
    rpms = Build.of(tmp_path, Tool.KEEPALIVED, director).run()
    read = archive.read(next(rpms.rglob("*.rpm")), {"etc/keepalived/keepalived.conf": 4096})
    assert read["etc/keepalived/keepalived.conf"].startswith(b"! Nothing is configured")


def test_a_configure_that_does_not_find_the_kernels_headers_ends_the_build(
    tmp_path: Path, director: list[Path]
) -> None:
    build = Build.of(tmp_path, Tool.KEEPALIVED, director)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archived:
        archived.addfile(tarfile.TarInfo("kernel/include/linux/ip_vs.h"))
    (tmp_path / "SOURCES" / HEADERS).write_bytes(packed.getvalue())
    with pytest.raises(BuildFailed) as caught:
        build.run()
    assert "Use IPVS Framework: No, must be Yes" in caught.value.what
    assert "IPVS use libnl: missing, must be No" in caught.value.what
    assert "error: keepalived: configure says: Use IPVS Framework       : No; it must say Yes" in build.log.read_text()


def test_a_keepalived_without_ipvs_would_be_refused_though_it_was_built(tmp_path: Path) -> None:
    build = Build.of(tmp_path, Tool.KEEPALIVED, kernel())
    changes = {
        "wanted() {\n": "wanted() { return 0\n",
        "||\n        { echo": "|| : ||\n        { echo",
        '--with-kernel-dir="$top/kernel"': "--with-kernel-dir=/nowhere",
        'flags="$flags -idirafter $top/kernel/include"\n': "",
    }

    def blind(spec: str) -> str:
        for there, instead in changes.items():
            assert there in spec
            spec = spec.replace(there, instead)
        return spec

    with pytest.raises(Refused, match="built without a part") as caught:
        tools.check(build.run(blind), build.parameters)
    assert "local_address_group" in caught.value.why and "vrrp_instance" not in caught.value.why


@pytest.mark.parametrize("option", ["fullnat", "add-laddr", "get-laddr", "synproxy"])
def test_a_stock_ipvsadm_is_refused_by_the_options_it_lacks(tmp_path: Path, option: str) -> None:
    source = tool_sources.TOOLS["tools/ipvsadm/ipvsadm.c"]
    build = Build.of(tmp_path, Tool.IPVSADM, ipvsadm_c=source.replace(f'"{option}"', '"masquerading"'))
    with pytest.raises(Refused, match="built without a part") as caught:
        tools.check(build.run(), build.parameters)
    assert option in caught.value.why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("-static "), "sbin/ipvsadm in .* is dynamic"),
        (without("(noreplace)"), "wrong configuration files"),
        (
            lambda spec: spec.replace("\n/etc/rc.d/init.d/ipvsadm\n", "\n%exclude /etc/rc.d/init.d/ipvsadm\n"),
            "files missing",
        ),
        (lambda spec: spec.replace("Epoch: 1\n", "Epoch: 2\n"), "not as planned"),
        (lambda spec: spec.replace("Requires: initscripts\n", "Requires: libnl\n"), "requires libnl"),
        (
            lambda spec: spec.replace("strip %{buildroot}/sbin/ipvsadm", "cp README %{buildroot}/sbin/ipvsadm"),
            "no prog",
        ),
    ],
)
def test_a_package_that_is_not_what_it_must_be_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    build = Build.of(tmp_path, Tool.IPVSADM)
    with pytest.raises(Refused, match=said):
        tools.check(build.run(change), build.parameters)


def test_a_static_program_is_not_what_centos6_makes(tmp_path: Path) -> None:
    build = Build.of(tmp_path, Tool.IPVSADM)
    parameters = replace(build.parameters, image=Builder.CENTOS6, libraries={})
    with pytest.raises(Refused, match="is static") as caught:
        tools.check(build.run(), parameters)
    assert "centos6 makes dynamic programs" in caught.value.why


# --- The director's headers --------------------------------------------------------------------------------


def test_the_headers_are_those_for_programs_and_the_one_that_configure_asks_for(
    tmp_path: Path, director: list[Path]
) -> None:
    written = tools.headers(director, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in written} == {"include/linux/ip_vs.h", "include/net/ip_vs.h"}
    assert (tmp_path / "include/linux/ip_vs.h").read_bytes() == LINUX_IP_VS_H


def test_headers_without_fullnat_are_refused(tmp_path: Path) -> None:
    stock = kernel({**PROGRAMS, "/usr/include/linux/ip_vs.h": b"#define IP_VS_CONN_F_MASQ 0\n"})
    with pytest.raises(Refused, match="is not of a director's kernel") as caught:
        tools.headers(stock, tmp_path)
    assert "kernel-headers" in caught.value.what and not list(tmp_path.iterdir())


def test_headers_that_configure_would_not_find_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"lack include/net/ip_vs\.h") as caught:
        tools.headers(kernel(modules={f"{DEVEL}/include/net/tcp.h": b"\n"}), tmp_path)
    assert "ends with success" in caught.value.why


def test_packages_of_two_builds_are_refused(tmp_path: Path, director: list[Path]) -> None:
    other = of_files("kernel-headers", "2.6.32", "220.23.1.el6", PROGRAMS)
    with pytest.raises(Refused, match="not of one build"):
        tools.headers([director[0], other], tmp_path)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_package_is_named(tmp_path: Path, director: list[Path], missing: int) -> None:
    given = [rpm for rpm in director[:2] if rpm != director[missing]]
    with pytest.raises(Refused, match=["kernel-devel", "kernel-headers"][missing]):
        tools.headers(given, tmp_path)


def test_a_tarball_without_the_tools_is_refused(tmp_path: Path) -> None:
    build = Build.of(tmp_path / "good", Tool.IPVSADM)
    popt = library_tarball(tmp_path, "popt")
    wrong = Verified("lvs-tarball", popt.name, popt, sha256_of(popt), 1, "", "", "", False)
    verified = {"lvs-tarball": wrong, "popt": replace(wrong, name="popt")}
    with pytest.raises(Refused, match=r"has no lvs-fullnat-synproxy/lvs-tools\.tar\.gz"):
        tools.prepare(tmp_path, tmp_path, build.parameters, verified)


# --- The image centos6 -------------------------------------------------------------------------------------

DYNAMIC = bytes.fromhex(  # an ELF-64 header for x86-64, one program header of the kind PT_INTERP, and the loader's name
    "7f454c4602010100" + "00" * 8 + "02003e0001000000" + "00" * 8 + "40" + "00" * 7 + "00" * 8
    + "00000000" + "4000" + "3800" + "0100" + "000000000000" + "0300000000000000" + "78" + "00" * 23
    + "07" + "00" * 23
) + b"/lib/x\0"  # fmt: skip
TEXTS = b"fullnat\0add-laddr\0del-laddr\0get-laddr\0laddr\0synproxy\0FullNat\0ipvsadm v1.26 2008\0"
CENTOS6 = tools.Parameters(target=EL6, tool=Tool.IPVSADM, image=Builder.CENTOS6, libraries={}, epoch=1_339_500_000)


def dynamic(program: bytes = DYNAMIC + TEXTS, *requires: str) -> Path:
    """A directory with a package that has the shape of what centos6 makes, without its compiler."""
    files = dict.fromkeys(("/sbin/ipvsadm-save", "/sbin/ipvsadm-restore", "/etc/rc.d/init.d/ipvsadm"), b"\n")
    files |= {"/usr/share/man/man8/ipvsadm.8.gz": b"\n", "/etc/sysconfig/ipvsadm": b"", "/sbin/ipvsadm": program}
    lines = ["Epoch: 1", *(f"Requires: {name}" for name in (*requires, "libpopt.so.0()(64bit)", "chkconfig"))]
    return of_files("ipvsadm", "1.2.1", "fnat.0.el6", files, *lines, config="/etc/sysconfig/ipvsadm").parent


def test_what_centos6_makes_is_proven_by_its_loader_and_libraries() -> None:
    found = tools.check(dynamic(DYNAMIC + TEXTS, "libc.so.6(GLIBC_2.4)(64bit)"), CENTOS6)
    assert (found.static, found.glibc) == (False, "2.4")
    assert found.libraries == ["libc.so.6", "libpopt.so.0"]


@pytest.mark.parametrize(
    ("program", "requires", "said"),
    [
        (DYNAMIC + TEXTS, "libc.so.6(GLIBC_2.14)(64bit)", r"needs version 2\.14 of the C library"),
        (DYNAMIC + TEXTS, "libnl.so.1()(64bit)", r"requires libnl\.so\.1"),
        (DYNAMIC.replace(b"\x3e\0", b"\xb7\0") + TEXTS, "chkconfig", "is no program for x86-64"),
        (DYNAMIC[:32] + b"\0\0\1" + DYNAMIC[35:] + TEXTS, "chkconfig", "is no program for x86-64"),
        (DYNAMIC + TEXTS.replace(b"synproxy\0", b""), "chkconfig", "without a part"),
    ],
)
def test_what_would_not_run_on_el6_is_refused(program: bytes, requires: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        tools.check(dynamic(program, requires), CENTOS6)


# --- The toy's own line and kernel -------------------------------------------------------------------------


def test_the_toys_line_has_what_its_tools_are_made_from(tmp_path: Path, director: list[Path]) -> None:
    toy = make_toy(tmp_path / "toy")
    with BadServer() as server:
        debian = Archive(server)
        add_libraries(toy, debian)
        inv = Inv(tmp_path)
        inv("pin", "toy", "kernel-srpm", "--line-file", toy.line_file)
        line = line_loader.load(None, toy.line_file)
        settings = load({"artifacts": str(inv.artifacts), "debian_mirror": debian.url}, {})
        sources = Sources(line, settings, Console(out=io.StringIO(), err=io.StringIO()))
        verified = {item.name: item for item in sources.fetch("debian12")}
    tools.check_sources(line, "debian12")
    assert set(verified) == set(line.data.sources)
    rpmbuild.make_tree(tmp_path / "build")
    for tool in Tool:
        parameters = tools.of_line(EL6, tool, "debian12", verified)
        names = ("lvs-tarball", *LIBRARIES[tool])
        assert tools.sources(parameters, verified) == {name: verified[name].sha256 for name in names}
        places = (tmp_path / "build" / "SOURCES", tmp_path / "build" / "SPECS")
        written = tools.prepare(*places, parameters, verified, director)
        assert {*(library.file for library in parameters.libraries.values())} <= {path.name for path in written}
    assert list(tools.sources(tools.of_line(EL6, Tool.IPVSADM, "centos6", verified), verified)) == ["lvs-tarball"]


def test_a_directors_kernel_is_told_from_a_stock_one_by_its_packages(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy")
    patch = without_config(toy.patches["lvs"].read_bytes())
    built = {}
    for name, words in {"director": {"patch": patch, "config": ("TAB_BITS=12", "TAB_BITS=22")}, "stock": {}}.items():
        private = tmp_path / name
        ended = build_kernel(toy, private, "--without", "kabichk", **words)  # type: ignore[arg-type]
        assert ended.status == 0, ended.error_text
        built[name] = sorted((private / "rpmbuild" / "RPMS").rglob("*.rpm"))
    written = tools.headers(built["director"], tmp_path / "kernel")
    assert tmp_path / "kernel/include/net/ip_vs.h" in written
    with pytest.raises(Refused, match="is not of a director's kernel"):
        tools.headers(built["stock"], tmp_path / "none")
