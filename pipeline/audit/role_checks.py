"""Check by content what the packages of a snapshot are: the role of each set, the option number, the configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from pipeline.audit import identify, pairs, statement
from pipeline.audit.findings import Findings, Result
from pipeline.audit.identity import Identity, Kind, Role
from pipeline.audit.policy import LinePolicy, PolicyFile
from pipeline.audit.snapshot_checks import Audited
from pipeline.audit.statement_checks import Stated
from pipeline.config.line_model import RoleName
from pipeline.core.digests import together
from pipeline.formats import kconfig
from pipeline.inspect.contents import Contents, Depth
from pipeline.publish.snapshot_contents import Document

_ROLES = "role"
_MAKING_A_ROLE = (Kind.KERNEL, Kind.MODULES, Kind.READER)


def check(
    audited: Audited, stated: Mapping[str, Stated], policy: PolicyFile, findings: Findings
) -> dict[str, Identity]:
    """Check the packages whose signatures and digests hold; return what they are, by file.

    The content of another one is anybody's.
    """
    good = {row.subject for row in findings.rows if row.check == "package" and row.result is Result.PASS}
    document = audited.document
    places = {
        file: audited.path / name / file for name, files in document.sets.items() for file in files if file in good
    }
    _check_line(document, policy, findings)
    read = _read(places, findings)
    identities = {file: identity for file, (identity, _) in read.items()}
    wholes: dict[str, Identity] = {}
    for name, files in document.sets.items():
        with findings.failing(_ROLES, name):
            packages = [identities[file] for file in files if file in identities]
            made = _wholes(name, packages, places, findings)
            wholes |= {whole.file: whole for whole in made}
            _check_set(name, [*packages, *made], findings)
    with findings.failing("option number", "all"):
        # A part may lack the code that has the number, and is no failure for that.
        known = [each for each in identities.values() if each.kind is not Kind.PARTIAL or _has_numbers(each)]
        _check_options([*known, *wholes.values()], policy.policy.lines or {}, document, findings)
    with findings.failing("configuration", "all"):
        _check_configurations({file: contents for file, (_, contents) in read.items()}, stated, findings)
    return identities


def _check_line(document: Document, policy: PolicyFile, findings: Findings) -> None:
    lines, notice = policy.policy.lines, f"; {document.notice}" if document.notice else ""
    if document.small:
        findings.warn(
            "line", "small kernels", "made for trying and for the lab, whatever the line: not for real traffic"
        )
    if lines is None:
        findings.warn("line", document.line, f"no policy names the accepted lines{notice}")
        return
    problem = "" if document.line in lines else f"the policy accepts {', '.join(lines) or 'no line'}"
    findings.require("line", document.line, problem, f"accepted by the policy{notice}")
    accepted = lines.get(document.line, LinePolicy()).roles
    if accepted is not None:
        surplus = sorted(document.sets.keys() - set(accepted))
        problem = f"the policy accepts {', '.join(accepted)}; surplus: {', '.join(surplus)}" if surplus else ""
        findings.require("line", "roles", problem, f"{', '.join(document.sets)}: accepted by the policy")


def _read(places: Mapping[str, Path], findings: Findings) -> dict[str, tuple[Identity, Contents]]:
    found = {}
    reading = together(lambda place: identify.read(place, Depth.MODULES, signed=True), places.values())
    for file, result in zip(places, reading, strict=True):
        with findings.failing(_ROLES, file):
            found[file] = result()
    for file, (identity, _) in found.items():
        for problem in identity.problems:
            findings.fail(_ROLES, file, f"{problem.what}: {problem.why}")
    return found


def _wholes(
    name: str, packages: Collection[Identity], places: Mapping[str, Path], findings: Findings
) -> list[Identity]:
    """Return the kernels that parts in the set `name` make together; record those that make none.

    A part of a kernel that is whole without it, such as more modules, must only not make another role.
    """
    whole_already = {package.kernel for package in packages if package.kind is Kind.KERNEL}
    parts: dict[str, list[Identity]] = {}
    for package in packages:
        if package.kind is Kind.PARTIAL:
            parts.setdefault(package.kernel, []).append(package)
    found = []
    for kernel, rows in parts.items():
        joined = [] if kernel in whole_already else _joined([places[row.file] for row in rows])
        found += [row for row in joined if row.kind is Kind.KERNEL]
        for row in joined:
            for problem in row.problems:
                findings.fail(_ROLES, row.file, f"{problem.what}: {problem.why}")
        for row in rows if kernel in whole_already else ():
            for role in set(row.has) - {name}:
                findings.fail(_ROLES, name, f"{row.file} is part of a {role} by content")
        for row in (joined or rows) if kernel not in whole_already else ():
            if row.kind is Kind.PARTIAL:
                lacks = "; ".join(each.text for each in row.evidence if each.about == "kind")
                findings.fail(_ROLES, row.file, f"a part of a kernel, and the set has no rest of it: {lacks}")
    return found


def _joined(paths: list[Path]) -> list[Identity]:
    return list(identify.identify(paths, None, Depth.MODULES).whole)


def _check_set(name: str, packages: Collection[Identity], findings: Findings) -> None:
    """Check that a role's set has what makes the role, and nothing that makes another one."""
    if name not in RoleName.__members__.values():
        findings.warn(_ROLES, name, "no role has this name")
        return
    wanted, making = Role(name), [package for package in packages if package.kind in _MAKING_A_ROLE]
    for package in making:
        if package.role not in (wanted, Role.STOCK):
            findings.fail(_ROLES, name, f"{package.file} is {package.role} by content")
    proofs = [
        row.text for package in making if package.role is wanted for row in package.evidence if row.about == _ROLES
    ]
    problem = "" if proofs else f"no package of the set is {wanted} by content"
    findings.require(_ROLES, name, problem, "; ".join(dict.fromkeys(proofs)))
    if wanted is Role.DIRECTOR:
        _check_interfaces([package for package in making if wanted in package.has], packages, findings)


def _check_interfaces(directors: Collection[Identity], packages: Collection[Identity], findings: Findings) -> None:
    """Check that each tool speaks the FULLNAT interface of what makes the set a director's: kernel or module set."""
    for tool in (package for package in packages if package.kind is Kind.TOOL):
        found = [pairs.pair_of(director, tool) for director in directors]
        reasons = "; ".join(reason for pair in found for reason in pair.reasons)
        bad = [pair for pair in found if not pair.works]
        findings.require("interface", tool.file, reasons if bad else "", reasons)


def _has_numbers(package: Identity) -> bool:
    return any(option.numbers for option in package.options)


def _check_options(
    packages: Collection[Identity], lines: Mapping[str, LinePolicy], document: Document, findings: Findings
) -> None:
    """Check that directors write the option that real servers read, and that it is the policy's."""
    options = [(package.file, option) for package in packages for option in package.options]
    numbers = {number for _, option in options for number in option.numbers}
    unknown = [f"{file}: {option.how}" for file, option in options if not option.numbers]
    accepted = lines.get(document.line, LinePolicy()).option_number
    if accepted is not None and not options and {Role.DIRECTOR, Role.REALSERVER} & document.sets.keys():
        unknown = ["no package writes or reads it"]
    if unknown and accepted is not None:
        findings.fail("option number", "unknown", f"{'; '.join(unknown)}; the policy accepts {accepted}")
    elif unknown:
        findings.warn("option number", "unknown", "; ".join(unknown))
    if numbers:
        shown = ", ".join(map(str, sorted(numbers)))
        problem = "director and real server differ: client addresses are lost in silence" if len(numbers) > 1 else ""
        if not problem and accepted is not None and numbers != {accepted}:
            problem = f"the policy accepts {accepted}"
        read = "; ".join(dict.fromkeys(option.how for _, option in options if option.numbers))
        findings.require("option number", shown, problem, f"in {len(options)} packages: {read}")


def _check_configurations(read: Mapping[str, Contents], stated: Mapping[str, Stated], findings: Findings) -> None:
    """Compare the configuration inside each kernel package with the one its build step stated."""
    known: dict[str, list[tuple[str, bytes]]] = {}
    for each in stated.values():
        for resource in each.found(statement.Kind.CONFIGURATION):
            file = f"{resource.facts(statement.ConfigurationFacts).package}.rpm"
            known.setdefault(file, []).append((each.file, resource.data))
    for file, contents in read.items():
        inside = {path: text for path, text in contents.config_texts.items() if path.startswith("/boot/")}
        if inside and file not in known:
            findings.fail("configuration", file, f"{', '.join(inside)}: no statement has this configuration")
        for where, data in known.get(file, ()):
            problem = "; ".join(_differences(data, text) for text in inside.values() if text != data)
            findings.require(
                "configuration",
                file,
                problem if inside else "no configuration in it",
                f"{', '.join(inside)} is the one that {where} states",
            )


def _differences(stated: bytes, inside: bytes) -> str:
    before, after = (kconfig.values(text.decode(errors="replace")) for text in (stated, inside))
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    shown = ", ".join(f"{name}={after.get(name, 'n')}, stated {before.get(name, 'n')}" for name in names[:5])
    return f"{len(names)} options differ from the stated ones: {shown}" if names else "its text differs, no option does"
