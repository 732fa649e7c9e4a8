"""Define rpmbuild's command line and environment in a builder, and read the headers of built packages.

Everything that could differ between two builds of the same thing is fixed here: directories inside, the build host's
name, times, compression, and what kernels write into themselves. Sets everything that rpm would take from the user's
home or the builder's defaults. Must not know any recipe.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.formats import rpm_header
from pipeline.formats.rpm_header import Tag

TOPDIR = "/build"  # inside: always the same, so that the compiler cache hits and paths in what is built agree
CCACHE = "/ccache"
CCACHE_SIZE = "5G"  # of one cache; a full kernel 2.6.32 takes 1.2 GiB
CCACHE_REMOTE = f"{TOPDIR}/ccache-remote"  # in a directory of the build: images have no place for it
CCACHE_LOG = "tmp/ccache.stats"  # below the top directory, so that each build has its own
DIRECTORIES = ("BUILD", "BUILDROOT", "RPMS", "SOURCES", "SPECS", "SRPMS", "db", "tmp")
HOST = "reproducible"
USER = "lvs-fullnat"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Macros:
    """The macros of a build. `jobs` parallel processes; `ccache`: compile C through the cache.

    `switches` are rpmbuild's own options, such as `--with X`, in order. `keep_tree`: rpm 4.18 leaves the build tree, in
    which the compiler's records lie; rpm 4.8 always does, and refuses the option.
    `payload` is rpm's name of the compression: every rpm reads gzip, and xz takes ten times as long for a fifth less.
    """

    jobs: int = 1
    ccache: bool = True
    dist: str = ""
    payload: str = "w6.gzdio"
    topdir: str = TOPDIR
    extra: Mapping[str, str] = field(default_factory=dict)
    switches: tuple[str, ...] = ()
    keep_tree: bool = False

    def defines(self) -> dict[str, str]:
        """Return all macros by name; `extra` last, so that a recipe may override them."""
        return {
            "_topdir": self.topdir,
            "_dbpath": f"{self.topdir}/db",  # by default it is below the home
            "_tmppath": f"{self.topdir}/tmp",
            "_buildshell": "/bin/bash",  # Debian's sh leaves {a,b} as it stands, in silence
            "_buildhost": HOST,
            "use_source_date_epoch_as_buildtime": "1",
            "clamp_mtime_to_source_date_epoch": "1",
            "source_date_epoch_from_changelog": "0",  # it is given, not guessed
            "_binary_payload": self.payload,
            "_source_payload": self.payload,
            "_binary_filedigest_algorithm": "8",  # SHA-256, RFC 4880 section 9.4
            "_source_filedigest_algorithm": "8",
            "_build_id_links": "none",  # two kernels would own the same links
            "debug_package": "%{nil}",
            "__gpg": "/usr/bin/gpg",  # Debian's rpm names one that is not there
            "dist": self.dist or "%{nil}",
            "_smp_build_ncpus": str(self.jobs),
            "_smp_mflags": f"-j{self.jobs}",
            "kernel_cc": "ccache gcc" if self.ccache else "gcc",
            **self.extra,
        }

    def options(self) -> list[str]:
        """Return the macros as options of rpm's programs."""
        defines = (word for name, value in self.defines().items() for word in ("--define", f"{name} {value}"))
        return [*defines, *self.switches]


def build_argv(spec: str, macros: Macros, *, with_source: bool = False) -> list[str]:
    """Return the command that builds the spec file `spec`, a name in SPECS; `with_source` its source package too.

    The builder's rpm database is empty, so requirements are not looked up in it: a spec file looks
    for the programs it needs itself.
    """
    what = "-ba" if with_source else "-bb"
    kept = ["--noclean"] if macros.keep_tree else []
    return ["rpmbuild", what, "--nodeps", *kept, *macros.options(), f"{macros.topdir}/SPECS/{spec}"]


def environment(epoch: int, *, jobs: int = 1, ccache: str = CCACHE, remote: str = "") -> dict[str, str]:
    """Return the environment of a build with all times set to `epoch`, in seconds since 1970.

    `ccache` is the cache's directory inside, empty for none: then every file is compiled. `remote` is ccache's remote
    storage, empty for none; what the local cache has is stored there too.
    """
    cached = {
        "CCACHE_DIR": ccache,
        # No file: a ccache.conf in the cache would name programs to run, in the next build that has the cache.
        "CCACHE_CONFIGPATH": "/dev/null",
        "CCACHE_MAXSIZE": CCACHE_SIZE,
        "CCACHE_BASEDIR": TOPDIR,
        "CCACHE_COMPILERCHECK": "content",  # a compiler's file time says nothing in an image
        # What a file includes is told by the compiler, which lists it for make anyway. Else a file that is not in the
        # cache is preprocessed a second time for it: parts of Linux 6.1 took 1.4 times as long, not 1.02.
        "CCACHE_DEPEND": "1",
        "CCACHE_TEMPDIR": f"{TOPDIR}/tmp",
        "CCACHE_STATSLOG": f"{TOPDIR}/{CCACHE_LOG}",
        **({"CCACHE_REMOTE_STORAGE": remote, "CCACHE_RESHARE": "1"} if remote else {}),
    }
    return {
        "HOME": f"{TOPDIR}/tmp",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "KBUILD_BUILD_TIMESTAMP": kernel_date(epoch),
        "KBUILD_BUILD_USER": USER,
        "KBUILD_BUILD_HOST": HOST,
        "KBUILD_BUILD_VERSION": "1",
        "XZ_DEFAULTS": f"--threads={jobs}",  # of the program; rpm's own payload does not read it
        **(cached if ccache else {"CCACHE_DISABLE": "1"}),
    }


def make_tree(topdir: Path) -> None:
    """Make rpmbuild's directories below `topdir`."""
    for name in DIRECTORIES:
        (topdir / name).mkdir(parents=True, exist_ok=True)


def kernel_date(epoch: int) -> str:
    """Format a time as the kernel's banner does, in UTC and English."""
    at = time.gmtime(epoch)
    return f"{_day(at)} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} UTC {at.tm_year}"


def changelog_date(epoch: int) -> str:
    """Format a day for an RPM changelog."""
    at = time.gmtime(epoch)
    return f"{_day(at)} {at.tm_year}"


def _day(at: time.struct_time) -> str:
    # strftime's names would be in the language of whoever builds
    return f"{_DAYS[at.tm_wday]} {_MONTHS[at.tm_mon - 1]} {at.tm_mday:02}"


@dataclass(frozen=True)
class Package:
    """The content of an RPM's header. `files` map to the link target or SHA-256; `ghosts` carry no content."""

    path: Path
    name: str
    nevra: str
    provides: tuple[str, ...]
    files: Mapping[str, str]
    ghosts: tuple[str, ...]
    payload: str


def read_package(rpm: Path) -> Package:
    """Read the header of an RPM, signed or not. Raises `Refused` for other files."""
    read = rpm_header.read(rpm)
    header, rows = read.header, read.files()
    epoch = f"{header.number(Tag.EPOCH)}:" if Tag.EPOCH in header.tags else ""
    return Package(
        path=rpm,
        name=read.name,
        nevra=f"{read.name}-{epoch}{header.text(Tag.VERSION)}-{header.text(Tag.RELEASE)}.{read.arch}",
        provides=tuple(read.dependencies("PROVIDE")),
        files={row.path: row.content for row in rows if not row.is_ghost},
        ghosts=tuple(row.path for row in rows if row.is_ghost),
        payload=header.text(Tag.PAYLOAD_COMPRESSOR),
    )
