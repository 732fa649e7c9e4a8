"""Build the CentOS 6 builder image: check its inputs, build with a container engine, cache as all images.

Only an engine can run CentOS 6's own installer; what it gives is exported, so that jobs run in it
under any runtime. The Dockerfile and its files come rendered: containers/centos6/*.j2.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.core import process
from pipeline.core.console import Console
from pipeline.errors import FileProblems, HostLacks, PipelineError, Problem, Refused, Unreachable
from pipeline.sandbox import supervisor
from pipeline.sandbox.container import ContainerEngine
from pipeline.sandbox.images import MOUNT_POINTS, make_once, unpack, write_packages
from pipeline.sandbox.runtime import BUILD_UID, Image

_PACKAGES = "packages.txt"  # in the image: name, version and digest of each package
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class CentosRecipe:
    """The image's name, its base, and the rendered files by name, among them `Dockerfile` and `vault.repo`.

    `without_vsyscall` begins the name of a base whose programs do without the vsyscall page; `requires` must be in
    the image.
    """

    name: str
    base: str
    without_vsyscall: str
    files: Mapping[str, str]
    requires: Sequence[str]

    @property
    def request(self) -> str:
        """The digest of the rendered files."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()[:16]


def variables(requires: Sequence[str], base: str, vault: str) -> dict[str, object]:
    """Return the variables of the templates."""
    points = " ".join(f"/{point}" for point in MOUNT_POINTS)
    return {"base": base, "vault": vault, "requires": list(requires), "uid": BUILD_UID, "points": points}


def check(recipe: CentosRecipe) -> None:
    """Raise `FileProblems` with all unpinned or unsigned inputs that would get into the image."""
    problems = [*_dockerfile(recipe), *_repositories(recipe.files["vault.repo"])]
    if problems:
        raise FileProblems("builder image centos6: not built; expected pinned and signed inputs only:", problems)


def check_vsyscall(recipe: CentosRecipe, maps: Path = Path("/proc/self/maps")) -> None:
    """Raise `HostLacks` where CentOS 6's programs would die with exit status 139, for want of the vsyscall page."""
    if recipe.base.startswith(recipe.without_vsyscall) or "[vsyscall]" in maps.read_text():
        return
    raise HostLacks(
        "host kernel: no vsyscall page; expected one for CentOS 6's programs",
        where=f"no [vsyscall] in {maps}: the kernel was booted with vsyscall=none",
        why="its C library calls into that page, and each of its programs would die with exit status 139",
        hint="boot the host with vsyscall=xonly (or emulate); or use a base made from "
        f"{recipe.without_vsyscall}, by digest",
    )


def centos6_image(
    recipe: CentosRecipe, engine: ContainerEngine, root: Path, console: Console, *, offline: bool, fresh: bool = False
) -> Image:
    """Return the image of `recipe` below `root`, built where there is none yet; the build's log lies beside.

    Raises `FileProblems`, `HostLacks`, `Unreachable` or `Refused`.
    """
    check(recipe)
    check_vsyscall(recipe)
    log = root / recipe.name / f"{recipe.request}.log"

    def make(made: Path, scratch: Path) -> None:
        console.note(f"building the image {recipe.name} with {engine.name}; log: {log}")
        tag = _build(recipe, engine, log)
        _export(engine, tag, scratch / "rootfs.tar")
        unpack(scratch / "rootfs.tar", made / "rootfs")
        listed = (made / "rootfs" / _PACKAGES).read_text()
        rows = [dict(zip(("name", "version", "digest"), row.split(), strict=True)) for row in listed.splitlines()]
        write_packages(made, recipe.name, {"base": recipe.base}, rows)

    return make_once(root, recipe.name, recipe.request, make, offline=offline, fresh=fresh)


def _dockerfile(recipe: CentosRecipe) -> Iterator[Problem]:
    """Check for a base pinned by digest, no downloads but by yum, and all requirements installed and queried."""
    lines = recipe.files["Dockerfile"].splitlines()
    bases = [(number, line) for number, line in enumerate(lines, 1) if re.match(r"\s*FROM\b", line, re.IGNORECASE)]
    for number, line in bases or [(1, "no FROM")]:
        if not re.fullmatch(r"FROM \S+@sha256:[0-9a-f]{64}", line):
            yield Problem("Dockerfile", number, f"{line}: the base is not pinned by digest", "FROM NAME@sha256:...")
    for number, line in enumerate(lines, 1):
        if not line.startswith("#") and (found := re.search(r"https?://|\bADD\b|\b(curl|wget)\b|nogpgcheck", line)):
            yield Problem("Dockerfile", number, f"{found[0]} downloads unsigned files", "yum with gpgcheck")
    for command in ("yum", "rpm --query --whatprovides"):
        number, words = _words(lines, command)
        for name in recipe.requires:
            if name not in words:
                yield Problem("Dockerfile", number, f"{name} is not among the words of {command}")


def _words(lines: Sequence[str], command: str) -> tuple[int, list[str]]:
    """Return the number and the words of the line that runs `command`."""
    for number, line in enumerate(lines, 1):
        if line.startswith(f"RUN {command} "):
            return number, shlex.split(line)
    return 1, []


def _repositories(text: str) -> Iterator[Problem]:
    """Check that signatures are verified, with a key that is in the base image."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        yield Problem("vault.repo", getattr(error, "lineno", 1), str(error).splitlines()[0])
        return
    numbers = {line.strip(): number for number, line in reversed([*enumerate(text.splitlines(), 1)])}
    for name in parser.sections():
        part, number = parser[name], numbers.get(f"[{name}]", 1)
        if part.get("gpgcheck") != "1":
            yield Problem("vault.repo", number, f"[{name}] does not check signatures", "gpgcheck=1")
        if not part.get("gpgkey", "").startswith("file:///"):
            yield Problem("vault.repo", number, f"[{name}] takes its key from elsewhere", "gpgkey=file:///...")
        if not part.get("baseurl"):
            yield Problem("vault.repo", number, f"[{name}] has no baseurl: the mirror list is dead", "baseurl=...")
    if not parser.sections():
        yield Problem("vault.repo", 1, "no repository")


def _build(recipe: CentosRecipe, engine: ContainerEngine, log: Path) -> str:
    """Build the image in the engine and return its name there. Closing our connection cancels the build."""
    tag = f"localhost/lvs-fullnat/{recipe.name}-build:{recipe.request}"
    proxies = {name: os.environ[name] for name in (*_PROXIES, *map(str.upper, _PROXIES)) if name in os.environ}
    with log.open("wb") as out, engine.translated_errors("did not build the image"):
        answers = engine.api.build(
            fileobj=_build_context(recipe.files),
            custom_context=True,
            tag=tag,
            network_mode="host",  # an engine may have no network of its own
            labels={supervisor.LABEL: supervisor.owner_label()},
            buildargs=proxies,
            use_config_proxy=False,
            rm=True,
            forcerm=True,
            decode=True,
        )
        for answer in answers:
            out.write(str(answer.get("stream") or answer.get("status", "")).encode())
            out.flush()
            if "error" in answer:
                raise _failure(recipe, log, str(answer["error"]))
    return tag


def _build_context(files: Mapping[str, str]) -> IO[bytes]:
    """Pack the files as the engine's build context, a tar file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    packed.seek(0)
    return packed


def _export(engine: ContainerEngine, tag: str, tarball: Path) -> None:
    """Write the whole tree of the image to `tarball`."""
    with engine.translated_errors("did not give the image"), contextlib.ExitStack() as stack:
        labels = {supervisor.LABEL: supervisor.owner_label()}
        container = engine.api.create_container(tag, ["/bin/true"], labels=labels, use_config_proxy=False)["Id"]
        stack.callback(engine.api.remove_container, container, force=True, v=True)
        with tarball.open("wb") as out:
            for data in engine.api.export(container):
                out.write(data)


def _failure(recipe: CentosRecipe, log: Path, error: str) -> PipelineError:
    """Classify a failed build by the output of the engine and of yum."""
    text = f"{log.read_text(errors='backslashreplace')[-4000:]}\n{error}"
    what, why = f"the image {recipe.name} could not be built", error.strip()
    if re.search(r"is not signed|GPG key|Public key for .* is not installed|manifest verification|digest", text):
        return Refused(f"{what}; expected valid signatures and digests", where=str(log), why=why)
    unreachable = r"no such host|dial tcp|manifest.* unknown|not found: manifest|Couldn't resolve host|Cannot retrieve"
    if re.search(rf"{unreachable}|Cannot find a valid baseurl|couldn't connect|pull access denied", text):
        return Unreachable(f"{what}; {recipe.base} or the vault is unreachable", where=str(log), why=why)
    return HostLacks(what, where=str(log), why=why, hint=process.reproducer(["less", str(log)]))
