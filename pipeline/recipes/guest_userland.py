"""Build the programs of the lab's guests: busybox, iptables and the project's own program, static with musl.

One step for every line: its programs run on 2.6.32 as on 6.1. They end in no package and in no repository.
It writes the script that compiles them, and proves by their headers that they need no library. Who runs the
script, and what guests do with the programs, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.line_model import DebianSource, Line
from pipeline.core import documents, fs, resources, templates
from pipeline.errors import Refused
from pipeline.formats import archive, elf, kconfig
from pipeline.packaging import job, outputs, rpmbuild
from pipeline.packaging.graph import Step, Work
from pipeline.recipes import lvs_tools

if TYPE_CHECKING:
    from pipeline.recipes.base import BuildInputs
    from pipeline.sources.records import Verified

STEP = "userland"
IMAGE = "debian12"
SOURCES = ("busybox", "iptables")  # as line files name them
BIN, LINKS = "bin", "busybox.links"  # of the step's output: the programs; every path busybox answers to
SCRIPT, CONFIG, COMPARER = "userland.sh", "busybox.config", "asked.awk"
_DISK_SPACE = 256 << 20  # bytes; measured: 90 MiB
_PROGRAMS, _LIST = outputs.OutputLimits(32 << 20, 64 << 20, 8), outputs.OutputLimits(1 << 20, 1 << 20, 1)
# What must be there, so that a part left out is seen before a guest misses it.
_APPLETS = ("/bin/sh", "/bin/ping", "/sbin/ip", "/sbin/modprobe", "/usr/bin/timeout", "/usr/sbin/arping")
_TEXTS = {
    "busybox": (b"BusyBox v", b"modules.dep", b"modules.alias"),
    "iptables": (b"iptables-save\0", b"iptables-restore\0", b"REDIRECT", b"MASQUERADE", b"/run/xtables.lock"),
    "fnat-guest": (b"guest ready",),
}


@dataclass(frozen=True)
class Tarball:
    """A source: its name in SOURCES, and the directory in it."""

    file: str
    tree: str


@dataclass(frozen=True)
class Parameters:
    """Everything that determines the programs. `epoch` is SOURCE_DATE_EPOCH in seconds."""

    tarballs: Mapping[str, Tarball]
    epoch: int

    def __post_init__(self) -> None:
        lvs_tools.plain([name for tarball in self.tarballs.values() for name in (tarball.file, tarball.tree)])


def steps(inputs: BuildInputs) -> list[Step]:
    """Return the step, where its sources are there and the line builds in the image that can make static programs."""
    there = has_sources(inputs.line) and all(name in inputs.verified for name in SOURCES)
    return [_step(inputs)] if there and inputs.environment.image.name == IMAGE else []


def has_sources(line: Line) -> bool:
    """Return whether the line names all sources of the programs."""
    return all(isinstance(line.data.sources.get(name), DebianSource) for name in SOURCES)


def of_line(verified: Mapping[str, Verified]) -> Parameters:
    """Return the parameters for a line whose sources are `verified`."""
    found = {name: archive.beginning(verified[name].path) for name in SOURCES}
    tarballs = {name: Tarball(verified[name].file, tree) for name, (tree, _) in found.items()}
    return Parameters(tarballs, max(epoch for _, epoch in found.values()))


def rendered(parameters: Parameters) -> dict[str, str]:
    """Return the texts of the script and of its further inputs, by file name."""
    guest = resources.specs_dir() / "guest"
    script = templates.render(
        f"specs/guest/{SCRIPT}.j2",
        topdir=rpmbuild.TOPDIR,
        tarballs=parameters.tarballs,
        config=CONFIG,
        comparer=COMPARER,
        links=LINKS,
    )
    own = {path.name: path.read_text() for path in sorted(guest.glob("*.[ch]"))}
    return {
        SCRIPT: script,
        CONFIG: kconfig.text(kconfig.fragment(guest / CONFIG)),
        COMPARER: templates.source(f"specs/common/{COMPARER}"),
        **own,
    }


def prepare(sources: Path, specs: Path, parameters: Parameters, verified: Mapping[str, Verified]) -> None:
    """Write the script into `specs` and all its inputs into `sources`."""
    lvs_tools.write(rendered(parameters), SCRIPT, sources, specs)
    for name, tarball in parameters.tarballs.items():
        fs.copy_verified(verified[name].path, sources / tarball.file, verified[name].sha256)


@dataclass(frozen=True)
class ProgramEvidence:
    """A proven program; `size` in bytes."""

    sha256: str
    size: int
    static: bool = True


@dataclass(frozen=True)
class Evidence:
    """The proven programs by name, and the number of busybox's applets."""

    parameters: Parameters
    programs: Mapping[str, ProgramEvidence]
    applets: int


def check(output: Path, parameters: Parameters) -> Evidence:
    """Prove the programs in the step's output by their content; return the evidence.

    Raises `Refused` for one that is missing, was built without a part, or needs a library or a loader.
    """
    evidence = {}
    for name, texts in _TEXTS.items():
        path = output / BIN / name
        data = path.read_bytes() if path.is_file() else b""
        headers = elf.program(data, str(path))
        if headers.machine != elf.X86_64 or headers.dynamic:
            why = f"its loader: {headers.loader or 'none'}; libraries: {', '.join(headers.needed) or 'none'}"
            raise Refused(f"{name} is no static program for x86-64", where=str(path), why=why)
        if missing := [text.strip(b"\0").decode() for text in texts if text not in data]:
            raise Refused(f"{name} was built without a part", where=str(path), why=f"not in it: {', '.join(missing)}")
        evidence[name] = ProgramEvidence(fs.sha256_of(path), len(data))
    applets = (output / LINKS).read_text(errors="replace").split()
    if missing := [path for path in _APPLETS if path not in applets]:
        raise Refused(f"busybox lacks {', '.join(missing)}", where=str(output / LINKS))
    return Evidence(parameters, evidence, len(applets))


def _step(inputs: BuildInputs) -> Step:
    parameters = of_line(inputs.verified)
    recipe = job.SpecBuild(
        spec=SCRIPT,
        epoch=parameters.epoch,
        write_sources=lambda sources, specs: prepare(sources, specs, parameters, inputs.verified),
        explain_failure=lambda log, top: None,
        macros=rpmbuild.Macros(),
        disk_space=_DISK_SPACE,
        cache=STEP,
    )

    def action(work: Work) -> None:
        argv = ("/bin/bash", f"{rpmbuild.TOPDIR}/SPECS/{SCRIPT}", str(work.jobs))
        top = job.run_build(work, inputs.environment, recipe, argv)
        left = job.build_outputs(work, top)
        left.copy_files(tuple(f"BUILD/{BIN}/{name}" for name in _TEXTS), work.out / BIN, _PROGRAMS, mode=0o755)
        left.copy_files((f"BUILD/{LINKS}",), work.out, _LIST, mode=0o644)
        (work.out / "evidence.json").write_text(documents.to_json(check(work.out, parameters)))

    key_inputs = {
        "sources": {name: inputs.verified[name].sha256 for name in SOURCES},
        "parameters": parameters,
        "texts": rendered(parameters),
        "image": inputs.environment.image.key,
    }
    return Step(STEP, action, key_inputs, code=(__name__,))
