"""The recipe of lvs-toa, which has servers on a stock kernel see the clients' addresses that a director writes as TOA.

One package for every kernel from 5.10, from the project's own sources: a program and the BPF programs inside it. It
writes the spec file and the sources, and proves the package by its content: the option number and the BPF programs'
sections in the program, and the number in the configuration. Must not know any line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import ToaReader
from pipeline.core import fs, resources
from pipeline.errors import Refused
from pipeline.formats import archive, elf
from pipeline.inspect import bpf_toa, package_contents
from pipeline.packaging import compiled_sources, job, rpmbuild
from pipeline.packaging.graph import Step
from pipeline.recipes import lvs_tools, spec_files, steps
from pipeline.recipes.base import MODULES_STEP

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs
    from pipeline.recipes.spec_files import BuildTarget

ARCH = "x86_64"
VERSION = "1.0"
SPEC = "lvs-toa.spec"
DIRECTORY = "lvs-toa"  # below specs/
PROGRAM, CONFIG = "/usr/sbin/lvs-toa", "/etc/lvs-toa.conf"
FILES = ("/usr/lib/systemd/system/lvs-toa.service", "/usr/share/man/man8/lvs-toa.8.gz")
LIBRARIES = ("libc.so.6",)  # what it reads BPF with is inside it: the systems it is for have none of it, or another
# The BPF programs by the names that the kernel's attachment follows from, and what they need.
SECTIONS = ("sockops", "cgroup/getpeername4", "cgroup/getpeername6", ".maps", ".BTF")
_CFLAGS = "-O2 -g0 -fPIE -fstack-protector-strong -D_FORTIFY_SOURCE=2 -ffile-prefix-map=/build=."
_LDFLAGS = "-pie -Wl,-z,relro -Wl,-z,now -Wl,--build-id=sha1"
_CONFIG_MOST = 64 << 10  # bytes


@dataclass(frozen=True)
class Parameters:
    """Everything that determines the package. `epoch` is SOURCE_DATE_EPOCH in seconds; `tag` is part of the release."""

    target: BuildTarget
    name: str
    model: ToaReader
    epoch: int
    number: int = 1
    tag: str = ""

    def __post_init__(self) -> None:
        lvs_tools.plain((self.name,))

    @property
    def release(self) -> str:
        """RPM's release."""
        return f"fnat.{self.number}{self.tag}{self.target.build.dist}"

    @property
    def nevra(self) -> str:
        """The package."""
        return f"{self.name}-{VERSION}-{self.release}.{ARCH}"

    def to_json(self) -> dict[str, object]:
        """Return what keys of steps and evidence hold."""
        own = {name: value for name, value in vars(self).items() if name not in ("target", "model")}
        glibc = self.target.build.glibc_max
        return {**own, **self.model.model_dump(mode="json"), "release": self.release, "glibc": glibc}


def rendered(parameters: Parameters) -> dict[str, str]:
    """Return the texts of the spec file and of the sources, by file name: what a step's key must cover."""
    paths = sorted((resources.specs_dir() / DIRECTORY).iterdir())
    sources = {path.name: fs.read_limited(path, spec_files.LARGEST).decode() for path in paths}
    spec = parameters.target.files.render(
        SPEC,
        line=parameters.target.line,
        name=parameters.name,
        version=VERSION,
        release=parameters.release,
        option=parameters.model.option_number,
        sources=list(sources),
        cflags=_CFLAGS,
        ldflags=_LDFLAGS,
        changelog_date=rpmbuild.changelog_date(parameters.epoch),
    )
    return {SPEC: spec, **sources}


def prepare(sources: Path, specs: Path, parameters: Parameters) -> list[Path]:
    """Write the spec file into `specs` and the sources into `sources`; return the paths."""
    return lvs_tools.write(rendered(parameters), SPEC, sources, specs)


@dataclass(frozen=True)
class Evidence:
    """A proven package: the option number in its program, the BPF programs, and the C library that it needs."""

    parameters: Parameters
    package: package_contents.PackageEvidence
    option_number: int
    sections: Sequence[str]
    libraries: Sequence[str]
    glibc: str


def check(rpms: Path, parameters: Parameters) -> Evidence:
    """Prove the package below `rpms` by its content; return the evidence.

    Raises `Refused` for missing content, another option number, a library that real servers need not have, and a C
    library newer than theirs.
    """
    package = package_contents.require_packages(rpms, [parameters.nevra])[parameters.name]
    found = package_contents.read_metadata(package.path)
    package_contents.require_files(package, (*FILES, CONFIG, PROGRAM))
    package_contents.require_config_files(package, found, [CONFIG])
    program = lvs_tools.programs(package, {PROGRAM: (VERSION.encode(),)})[PROGRAM]
    check_programs(program, parameters.model.option_number, package.path)
    _check_configuration(package, parameters.model.option_number)
    libraries = lvs_tools.libraries(package, found, LIBRARIES)
    glibc = lvs_tools.glibc(package, found, parameters.target.build.glibc)
    metadata = package_contents.evidence(package, found)
    return Evidence(parameters, metadata, parameters.model.option_number, SECTIONS, libraries, glibc)


def check_programs(program: bytes, option: int, place: Path) -> None:
    """Check the BPF object inside `program`: its sections, and the number that it is made for. Raises `Refused`."""
    data = _bpf_object(program, place)
    if missing := [name for name in SECTIONS if not elf.section(data, name, PROGRAM)]:
        raise Refused(
            f"{PROGRAM} in {place.name}: BPF programs missing; expected the sections {', '.join(missing)}",
            where=str(place),
            why="servers would see the director's address for some of their sockets",
        )
    text = bpf_toa.stated_option(data, PROGRAM)
    if text != f"TCP option {option}":
        _refuse_option(PROGRAM, option, text, place)


def _bpf_object(program: bytes, place: Path) -> bytes:
    """Return the BPF object inside a program, from its beginning on. Raises `Refused` without exactly one."""
    found = bpf_toa.bpf_objects(program)
    if len(found) != 1:
        raise Refused(f"{PROGRAM} in {place.name}: {len(found)} BPF objects; expected one", where=str(place))
    return found[0]


def _check_configuration(package: rpmbuild.Package, option: int) -> None:
    name = CONFIG.lstrip("/")
    text = archive.read(package.path, {name: _CONFIG_MOST}).get(name, b"").decode(errors="replace")
    numbers = bpf_toa.configured_options(text)
    if numbers != [str(option)]:
        _refuse_option(CONFIG, option, ", ".join(numbers), package.path)


def _refuse_option(path: str, option: int, found: str, place: Path) -> None:
    raise Refused(
        f"{path} in {place.name}: wrong option number; expected {option}, got {found or 'none'}",
        where=str(place),
        why="an option that the director writes with another number is skipped, and clients' addresses are lost",
    )


def plan(inputs: BuildInputs, epoch: int) -> list[Step]:
    """Plan a step for each such package of the line."""
    packages = inputs.line.data.packages.items()
    return [_step(inputs, name, model, epoch) for name, model in packages if isinstance(model, ToaReader)]


def _step(inputs: BuildInputs, name: str, model: ToaReader, epoch: int) -> Step:
    target = spec_files.target(inputs.line)
    parameters = Parameters(target, name, model, epoch, tag=inputs.line.release_tag)

    def fill(sources: Path, specs: Path) -> None:
        prepare(sources, specs, parameters)

    recipe = job.SpecBuild(
        spec=SPEC,
        epoch=epoch,
        write_sources=fill,
        explain_failure=lambda log, top: None,
        macros=rpmbuild.Macros(dist=target.build.dist, keep_tree=True),
        compiled=compiled_sources.Recorded(("source",)),
    )
    keyed = {"parameters": parameters, "texts": rendered(parameters)}
    return steps.package_step(f"{MODULES_STEP}:{name}", inputs, recipe, lambda rpms: check(rpms, parameters), keyed)
