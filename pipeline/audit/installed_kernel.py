"""Identify the kernel that runs on this host: its files, what is loaded of it, and the package that owns it.

Works as any user: what a user may not read is named, and not guessed. Nothing is loaded or changed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.audit import identify as audit
from pipeline.audit.identity import Claim, Identity, Kind, Option, claimed
from pipeline.audit.verdict import WRITTEN, Verdict
from pipeline.core import fs, process
from pipeline.errors import PipelineError
from pipeline.formats import decompression, kconfig
from pipeline.inspect.contents import Contents, Depth
from pipeline.inspect.module_facts import Interface

_FILES_MOST = 50_000  # below a kernel's directory of modules; Debian's 6.1 has 4,900
_PROC_MOST = 1 << 20  # bytes
_HOST = "this host"
_SIZE = re.compile(r"IP Virtual Server version \S+ \(size=(\d+)\)")
_RPM_PATIENCE = 20.0  # seconds
_PROGRAMS = ("/usr/sbin/lvs-toa", "/sbin/ipvsadm", "/usr/sbin/ipvsadm", "/usr/sbin/keepalived")


@dataclass(frozen=True)
class Host:
    """A host: the root of its files, and the release of its kernel."""

    root: Path
    release: str

    def text(self, path: str) -> str | None:
        """Return the content of a small file; None for one that is missing or not readable."""
        try:
            return fs.read_limited(self.root / path.lstrip("/"), _PROC_MOST).decode(errors="replace")
        except OSError:
            return None


def identify(root: Path = Path("/"), release: str = "") -> Identity:
    """Identify the running kernel, of the host whose files are below `root`."""
    host = Host(root, release or os.uname().release)
    found, unreadable = _contents(host)
    verdict = Verdict(found, Depth.MODULES, _HOST, Kind.KERNEL)
    verdict.say("kernel", f"{host.release} runs", "/proc/sys/kernel/osrelease", "the running kernel")
    for path, reason in unreadable:
        verdict.say("kernel", f"not read: {reason}", path, "this host's files")
    _add_loaded(host, verdict)
    _add_programs(found, verdict)
    claims = tuple(_claims(host))
    identity = audit.of_verdict(_HOST, f"the kernel {host.release}", verdict, (), claims)
    problems = [problem for claim in claims if (problem := audit.mismatch(identity, claim))]
    return audit.with_problems(replace(identity, kernel=host.release), problems)


def _contents(host: Host) -> tuple[Contents, list[tuple[str, str]]]:
    """Return what the host's files say, and those that could not be read, with the problem."""
    found = Contents(frozenset(_listed(host)))
    unreadable = []
    for path, want in sorted(found.wanted(Depth.MODULES).items()):
        try:
            with (host.root / path.lstrip("/")).open("rb") as stream:
                data = stream.read(want.most + 1)
            if len(data) > want.most and not want.part:
                raise OSError(0, f"more than {want.most} bytes")
            found.add(path, data[: want.most])
        except OSError as error:
            unreadable.append((path, error.strerror or str(error)))
        except PipelineError as error:
            unreadable.append((path, error.what))
    if not found.configs and (text := _config_of_proc(host)):
        found.configs["/proc/config.gz"] = kconfig.values(text.decode(errors="replace"))
    return found, unreadable


def _config_of_proc(host: Host) -> bytes:
    """Return the configuration that the kernel itself gives, where it was built to; else nothing."""
    path = host.root / "proc/config.gz"
    try:
        data = fs.read_limited(path, _PROC_MOST)
        return decompression.unpacked(data, str(path), decompression.soon(8 * _PROC_MOST))
    except (OSError, PipelineError):
        return b""


def _listed(host: Host) -> Iterator[str]:
    """Yield the kernel's files that are there: of several modules of one name that which modprobe loads."""
    boot = [f"/boot/{name}-{host.release}" for name in ("config", "vmlinuz", "System.map")]
    yield from (path for path in (*boot, *_PROGRAMS, "/etc/lvs-toa.conf") if (host.root / path.lstrip("/")).is_file())
    place = f"/lib/modules/{host.release}"
    loaded = {row.partition(":")[0] for row in (host.text(f"{place}/modules.dep") or "").splitlines()}
    seen = 0
    for directory, _, names in os.walk(host.root / place.lstrip("/")):
        for name in names:
            seen += 1
            if seen > _FILES_MOST:
                return
            path = Path(directory, name)
            inside = str(path.relative_to(host.root / place.lstrip("/")))
            if path.is_file() and (".ko" not in name or not loaded or inside in loaded):
                yield f"{place}/{inside}"


def _add_loaded(host: Host, verdict: Verdict) -> None:
    """Add what the kernel says of its loaded modules, which counts before files that may have changed since."""
    loaded = {row.split(" ")[0] for row in (host.text("/proc/modules") or "").splitlines()}
    for name in sorted({"ip_vs", "toa"} & loaded):
        verdict.say("role", f"the module {name} is loaded", "/proc/modules", "the running kernel")
        _compare_with_file(host, verdict, name)
    settings = host.root / "proc/sys/net/ipv4/vs"
    names = sorted(path.name for path in settings.glob("fullnat_*"))
    if names:
        where = f"/proc/sys/net/ipv4/vs/{names[0]}"
        verdict.say("role", "IPVS with FULLNAT is loaded: a director", where, "the running kernel")
        verdict.director = True
        number = (host.text("/proc/sys/net/ipv4/vs/fullnat_toa_option") or "").strip()
        verdict.interface = Interface.NETLINK if "fullnat_toa_option" in names else Interface.SOCKOPT
        if number.isdigit():
            verdict.options = [option for option in verdict.options if option.use != WRITTEN]
            numbers = (int(number),) if number != "0" else ()
            verdict.options.append(
                Option(WRITTEN, numbers, "net.ipv4.vs.fullnat_toa_option as it is now; 0 writes none")
            )
    if (host.root / "proc/net/toa_stats").exists():
        verdict.say("role", "TOA is loaded: a real server", "/proc/net/toa_stats", "the running kernel")
        verdict.server = True
    size = _SIZE.match(host.text("/proc/net/ip_vs") or "")
    bits = (host.text("/sys/module/ip_vs/parameters/conn_tab_bits") or "").strip()
    if size or bits.isdigit():
        verdict.tab_bits = int(size[1]).bit_length() - 1 if size else int(bits)
        where = "/proc/net/ip_vs" if size else "/sys/module/ip_vs/parameters/conn_tab_bits"
        verdict.say("TAB_BITS", f"{verdict.tab_bits}, as loaded", where, "the running kernel")


def _compare_with_file(host: Host, verdict: Verdict, name: str) -> None:
    """Add a contradiction where the loaded module is not the one on disk."""
    version = (host.text(f"/sys/module/{name}/srcversion") or "").strip()
    for path in verdict.contents.listed_modules(name):
        facts = verdict.contents.modules.get(path)
        if version and facts and facts.source_version and facts.source_version != version:
            verdict.contradict(f"the loaded module {name} has srcversion {version}, {path} {facts.source_version}")


def _add_programs(found: Contents, verdict: Verdict) -> None:
    for path, tool in found.tools.items():
        verdict.say("tools", f"{tool.name} speaks FULLNAT by {tool.interface}", path, "program's content")
    for path, reader in found.readers.items():
        text = f"lvs-toa is installed, for option {' '.join(found.options or ()) or reader.option}: a real server while"
        verdict.say("tools", f"{text} its programs are attached, which root alone sees", path, "program's content")


def _claims(host: Host) -> Iterator[Claim]:
    """Yield what the release, and the name of the package that owns the modules, claim."""
    if role := claimed("", host.release):
        yield Claim("release", host.release, role)
    if host.root != Path("/") or shutil.which("rpm") is None:
        return
    argv = ["rpm", "-qf", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n", f"/lib/modules/{host.release}"]
    try:
        result = process.run(argv, accept=range(256), timeout=_RPM_PATIENCE)
    except PipelineError:
        return
    for row in result.text.splitlines() if result.status == 0 else ():
        if role := claimed(*row.partition(" ")[::2]):
            yield Claim("owner in the rpm database", row, role)
