"""Build ipvsadm and keepalived for RHEL 6, from the tools in the FULLNAT patches' own tarball.

Two builder images make them. centos6 gives the ordinary dynamic programs of that distribution. debian12, whose C
library is too new for this kernel, gives static ones, with libraries made from Debian's sources in the same build.
Writes the spec files and their sources, checks the summary of keepalived's configure, and proves the packages by their
content. Must not know the build environment.
"""

from __future__ import annotations

import io
import re
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.config.line_model import DebianSource, FileSource, Line
from pipeline.core import fs
from pipeline.errors import Refused, UsageError
from pipeline.formats import archive, elf
from pipeline.inspect import package_contents
from pipeline.packaging import rpmbuild
from pipeline.recipes import lvs_tools
from pipeline.recipes.lvs_tools import Content, Tool

if TYPE_CHECKING:
    from pipeline.recipes.spec_files import BuildTarget
    from pipeline.sources.records import Verified

TARBALL_SOURCE = "lvs-tarball"  # as the line file names it
MEMBER = "lvs-fullnat-synproxy/lvs-tools.tar.gz"
HEADERS = "director-headers.tar"
# The guides' names of the packages: ipvsadm's is of the IPVS interface, keepalived's its own.
VERSIONS = {Tool.IPVSADM: "1.2.1", Tool.KEEPALIVED: "1.2.2"}
# What keepalived's configure must say at its end: its label, its word.
SUMMARY = (
    ("Use IPVS Framework", "Yes"),
    ("IPVS sync daemon support", "Yes"),
    ("IPVS use libnl", "No"),
    ("Use VRRP Framework", "Yes"),
    ("Use Debug flags", "No"),
)
# What a health check by TLS, and MD5, never use.
OPENSSL_OPTIONS = (
    *("no-shared", "no-dso", "no-module", "no-engine", "no-tests", "no-threads", "no-async", "no-secure-memory"),
    *("no-autoload-config", "no-legacy", "no-comp", "no-cms", "no-cmp", "no-ct", "no-dtls", "no-gost", "no-srp"),
    *("no-srtp", "no-ts", "no-aria", "no-bf", "no-blake2", "no-camellia", "no-cast", "no-dsa", "no-idea", "no-md4"),
    *("no-mdc2", "no-ocb", "no-rc2", "no-rc4", "no-rmd160", "no-seed", "no-siphash", "no-siv", "no-sm2", "no-sm3"),
    *("no-sm4", "no-whirlpool"),
)
_COMMON_CFLAGS = "-O2 -g0 -fno-strict-aliasing"  # the programs break C's rules of aliasing
_LDFLAGS = "-Wl,-z,relro -Wl,--build-id=sha1"
_MEMBER_MOST, _HEADER_MOST = 64 << 20, 1 << 20  # bytes
_PROOF = b"IP_VS_CONN_F_FULLNAT"
_FOR_PROGRAMS = re.compile(r"/usr/(include/(?:linux|asm|asm-generic)/.+\.h)")
_OF_MODULES = re.compile(r"/usr/src/kernels/[^/]+/(include/net/ip_vs\.h)")
_KINDS = {True: "is dynamic", False: "is static"}


class Builder(StrEnum):
    """The builder images of these tools."""

    CENTOS6 = "centos6"
    DEBIAN12 = "debian12"


_CFLAGS = {
    Builder.CENTOS6: _COMMON_CFLAGS,
    # -fcommon: keepalived's headers define variables, which newer compilers take for as many variables as files.
    Builder.DEBIAN12: f"{_COMMON_CFLAGS} -fcommon -fstack-protector-strong -ffile-prefix-map=/build=.",
}
# Made in the same build, in this order, where programs are static.
LIBRARIES = {Tool.IPVSADM: ("popt",), Tool.KEEPALIVED: ("popt", "openssl")}

_CONTENT = {
    Tool.IPVSADM: Content(
        files=(
            *("/sbin/ipvsadm-save", "/sbin/ipvsadm-restore", "/etc/rc.d/init.d/ipvsadm"),
            "/usr/share/man/man8/ipvsadm.8.gz",
        ),
        config=("/etc/sysconfig/ipvsadm",),
        sources=("ipvsadm.sysconfig",),
        # Every option that FULLNAT added, and what -Ln prints. A stock ipvsadm takes -b for Masq, and ends with 0.
        texts={
            "/sbin/ipvsadm": (
                *(b"fullnat\0", b"add-laddr\0", b"del-laddr\0", b"get-laddr\0", b"laddr\0", b"synproxy\0"),
                *(b"FullNat", b"ipvsadm v1.26 "),
            )
        },
        libraries=("libc.so.6", "libpopt.so.0"),
    ),
    Tool.KEEPALIVED: Content(
        files=(
            *("/etc/rc.d/init.d/keepalived", "/usr/share/man/man1/genhash.1.gz"),
            *("/usr/share/man/man5/keepalived.conf.5.gz", "/usr/share/man/man8/keepalived.8.gz"),
        ),
        config=("/etc/keepalived/keepalived.conf", "/etc/sysconfig/keepalived"),
        sources=("keepalived.sysconfig", "keepalived.conf"),
        texts={
            "/usr/sbin/keepalived": (
                *(b"local_address_group\0", b"laddr_group_name\0", b"lb_kind\0", b"FNAT\0", b"syn_proxy\0"),
                *(b"quorum\0", b"alpha\0", b"omega\0", b"hysteresis\0", b"virtual_server\0", b"vrrp_instance\0"),
                *(b"HTTP_GET\0", b"SSL_GET\0", b"lvs_sync_daemon_interface\0", b"Keepalived v1.2.2 "),
            ),
            "/usr/bin/genhash": (b"MD5SUM = ",),
        },
        libraries=("libc.so.6", "libcrypto.so.10", "libdl.so.2", "libpopt.so.0", "libssl.so.10"),
    ),
}
_OTHERS = ("chkconfig", "initscripts")


@dataclass(frozen=True)
class Library:
    """A library built from source: its tarball's name in SOURCES, and the directory in it."""

    file: str
    tree: str


@dataclass(frozen=True, kw_only=True)
class Parameters(lvs_tools.Parameters):
    """Everything that determines a tool's package.

    `libraries` are built into a static program, by name: empty in the image centos6.
    """

    FIRST: ClassVar[int] = 0

    version: str = field(init=False)
    image: Builder
    libraries: Mapping[str, Library]
    number: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", VERSIONS[self.tool])
        super().__post_init__()
        lvs_tools.plain([name for library in self.libraries.values() for name in (library.file, library.tree)])
        if tuple(self.libraries) != (LIBRARIES[self.tool] if self.static else ()):
            why = f"given: {', '.join(self.libraries) or 'none'}"
            raise UsageError(f"{self.tool} in the image {self.image} is made with other libraries", why=why)

    @property
    def static(self) -> bool:
        """Whether the programs need no library of the target system."""
        return self.image is Builder.DEBIAN12


def check_sources(line: Line, image: str) -> None:
    """Refuse a line without the tools' sources, or an image unknown to this recipe."""
    if image not in list(Builder):
        raise UsageError(
            f"the tools of {line.name} are not built in the image {image!r}", why=f"in {', '.join(Builder)}"
        )
    source = line.data.sources.get(TARBALL_SOURCE)
    members = [member.path for member in source.members] if isinstance(source, FileSource) else []
    if MEMBER not in members:
        why = f'the tools are the member {MEMBER} of a source of kind "file", and must be pinned'
        raise Refused(f"the line {line.name} lacks the source {TARBALL_SOURCE}", where=str(line.files[0]), why=why)
    names = sorted({name for libraries in LIBRARIES.values() for name in libraries})
    missing = [name for name in names if not isinstance(line.data.sources.get(name), DebianSource)]
    if image == Builder.DEBIAN12 and missing:
        why = "in this image programs are static, and their libraries are made from Debian's sources"
        what = f"the line {line.name} lacks Debian sources to build tools from: {', '.join(missing)}"
        raise Refused(what, where=str(line.files[0]), why=why, hint="add them, or build with the image centos6")


def of_line(target: BuildTarget, tool: Tool, image: str, verified: Mapping[str, Verified], tag: str = "") -> Parameters:
    """Return the parameters of one tool of a line with `verified` sources that passed `check_sources`."""
    builder = Builder(image)
    names = LIBRARIES[tool] if builder is Builder.DEBIAN12 else ()
    libraries = {name: Library(verified[name].file, archive.beginning(verified[name].path)[0]) for name in names}
    _, epoch = archive.beginning(verified[TARBALL_SOURCE].path)
    return Parameters(target=target, tool=tool, image=builder, libraries=libraries, epoch=epoch, tag=tag)


def sources(parameters: Parameters, verified: Mapping[str, Verified]) -> dict[str, str]:
    """Return the digests of a tool's sources by name, for the key of its step."""
    return {name: verified[name].sha256 for name in (TARBALL_SOURCE, *parameters.libraries)}


def rendered(parameters: Parameters) -> dict[str, str]:
    """Return the texts of the spec file and of additional installed files, by file name."""
    content = _CONTENT[parameters.tool]
    at = time.gmtime(parameters.epoch)
    target = parameters.target
    spec = target.files.render(
        parameters.spec,
        line=target.line,
        version=parameters.version,
        release=parameters.release,
        guard=parameters.guard,
        tarball=Path(MEMBER).name,
        sources=content.sources,
        libraries=parameters.libraries,
        static=parameters.static,
        headers=HEADERS,
        cflags=_CFLAGS[parameters.image],
        ldflags=_LDFLAGS,
        openssl_options=OPENSSL_OPTIONS,
        summary=SUMMARY,
        day=f"{at.tm_mon:02}/{at.tm_mday:02},{at.tm_year}",
        changelog_date=rpmbuild.changelog_date(parameters.epoch),
    )
    return {parameters.spec: spec, **lvs_tools.installed(target.files, content.sources)}


def prepare(
    sources: Path,
    specs: Path,
    parameters: Parameters,
    verified: Mapping[str, Verified],
    kernel_rpms: Sequence[Path] = (),
) -> list[Path]:
    """Write the spec file into `specs` and everything that the build reads into `sources`; return the paths.

    `kernel_rpms` are the director's packages, which keepalived is built for. Raises `Refused`.
    """
    written = lvs_tools.write(rendered(parameters), parameters.spec, sources, specs)
    tarball = verified[TARBALL_SOURCE]
    found = archive.read(tarball.path, {MEMBER: _MEMBER_MOST})
    if MEMBER not in found:
        raise Refused(f"{tarball.file} has no {MEMBER}", where=str(tarball.path))
    fs.write_atomic(sources / Path(MEMBER).name, found[MEMBER])
    for name, library in parameters.libraries.items():
        fs.copy_verified(verified[name].path, sources / library.file, verified[name].sha256)
    names = [Path(MEMBER).name, *(library.file for library in parameters.libraries.values())]
    if parameters.tool is Tool.KEEPALIVED:
        fs.write_atomic(sources / HEADERS, _packed(_headers(kernel_rpms), parameters.epoch))
        names.append(HEADERS)
    return [*written, *(sources / name for name in names)]


def headers(kernel_rpms: Sequence[Path], destination: Path) -> list[Path]:
    """Extract the director's headers below `destination`, for keepalived's `--with-kernel-dir`.

    Raises `Refused` when they are not of one build, or not of a kernel with FULLNAT.
    """
    written = []
    for name, data in _headers(kernel_rpms).items():
        path = destination / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fs.write_atomic(path, data)
        written.append(path)
    return written


def _headers(kernel_rpms: Sequence[Path]) -> dict[str, bytes]:
    """Return the director's headers by path: the kernel's own for programs, and the one that configure checks."""
    packages = {package.name: package for package in map(rpmbuild.read_package, kernel_rpms)}
    where = ", ".join(str(path) for path in kernel_rpms) or "no package"
    if missing := [name for name in ("kernel-devel", "kernel-headers") if name not in packages]:
        raise Refused(f"keepalived is built for the director's kernel, whose {missing[0]} is missing", where=where)
    devel, programs = packages["kernel-devel"], packages["kernel-headers"]
    if devel.nevra.removeprefix(devel.name) != programs.nevra.removeprefix(programs.name):
        raise Refused("the director's packages are not of one build", why=f"{devel.nevra}, {programs.nevra}")
    found = {**_matching(programs, _FOR_PROGRAMS), **_matching(devel, _OF_MODULES)}
    if missing := [name for name in ("include/net/ip_vs.h", "include/linux/ip_vs.h") if name not in found]:
        why = "without it keepalived's configure leaves IPVS out, and ends with success"
        raise Refused(f"the director's packages lack {missing[0]}", where=where, why=why)
    if _PROOF not in found["include/linux/ip_vs.h"]:
        what = f"{programs.path.name} is not of a director's kernel: its linux/ip_vs.h lacks {_PROOF.decode()}"
        raise Refused(what, where=str(programs.path), why="keepalived would be built for a kernel without FULLNAT")
    return found


def _matching(package: rpmbuild.Package, pattern: re.Pattern[str]) -> dict[str, bytes]:
    """Return the files of a package whose whole paths match, by the pattern's first group."""
    named = {path: match[1] for path in package.files if (match := pattern.fullmatch(path))}
    read = archive.read(package.path, {path.lstrip("/"): _HEADER_MOST for path in named})
    return {name: read[path.lstrip("/")] for path, name in named.items() if path.lstrip("/") in read}


def _packed(found: Mapping[str, bytes], epoch: int) -> bytes:
    """Return a tar of headers below `kernel/`, the same bytes for the same headers."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as packed:
        for name in sorted(found):
            entry = tarfile.TarInfo(f"kernel/{name}")
            entry.size, entry.mtime, entry.mode = len(found[name]), epoch, 0o644
            packed.addfile(entry, io.BytesIO(found[name]))
    return stream.getvalue()


def explain(log: Path, parameters: Parameters) -> None:
    """Raise `BuildFailed` when a build's log shows that configure left out a required feature; else return."""
    if parameters.tool is Tool.KEEPALIVED:
        hint = f"see 'checking for' in the log; the kernel's headers are those of {HEADERS}"
        lvs_tools.explain_summary(log, SUMMARY, hint)


@dataclass(frozen=True)
class Evidence:
    """A proven package: its libraries, the newest version of the C library that it needs, and whether it is static."""

    parameters: Parameters
    package: package_contents.PackageEvidence
    libraries: Sequence[str]
    glibc: str
    static: bool


def check(rpms: Path, parameters: Parameters) -> Evidence:
    """Prove the package below `rpms` by its content; return the evidence.

    Raises `Refused` for what is missing, for programs without FULLNAT, and for programs that need what
    the systems they are for have not.
    """
    content = _CONTENT[parameters.tool]
    package = package_contents.require_packages(rpms, [parameters.nevra])[parameters.tool]
    found = package_contents.read_metadata(package.path)
    package_contents.require_files(package, (*content.files, *content.config, *content.texts))
    package_contents.require_config_files(package, found, content.config)
    for path, program in lvs_tools.programs(package, content.texts).items():
        _check_program(package, path, program, parameters)
    allowed = () if parameters.static else content.libraries
    libraries = lvs_tools.libraries(package, found, allowed, _OTHERS)
    glibc = lvs_tools.glibc(package, found, parameters.target.build.glibc)
    return Evidence(parameters, package_contents.evidence(package, found), libraries, glibc, parameters.static)


def _check_program(package: rpmbuild.Package, path: str, program: bytes, parameters: Parameters) -> None:
    """Check a program's headers: for x86-64, and with an interpreter exactly when not static."""
    try:
        program_headers = elf.program(program, path)
        what = "is no program for x86-64" if program_headers.machine != elf.X86_64 else _KINDS[program_headers.dynamic]
    except Refused:
        what = "is no program for x86-64"
    if what != _KINDS[not parameters.static]:
        why = f"the image {parameters.image} makes {'static' if parameters.static else 'dynamic'} programs"
        raise Refused(f"{path} in {package.path.name} {what}", where=str(package.path), why=why)
