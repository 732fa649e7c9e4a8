"""Identify what an RPM is, whatever its name says: role of a kernel, module set or tool, by content.

Reads packages of anyone, also hostile ones: `pipeline.formats.rpm_payload` bounds and checks the reading. Nothing is
installed, unpacked to disk or run.
"""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.audit.identity import Claim, Identification, Identity, Kind, Problem, Role, claimed
from pipeline.audit.pairs import pair_of
from pipeline.audit.verdict import Verdict
from pipeline.core import neutral
from pipeline.errors import Refused, UsageError
from pipeline.formats import rpm_payload
from pipeline.formats.rpm_header import RpmFile, Tag
from pipeline.inspect import contents
from pipeline.inspect.contents import Contents, Depth
from pipeline.inspect.guide_mistakes import WRONG_PATCH

_TEXTS = {
    Role.DIRECTOR: "director",
    Role.REALSERVER: "real server",
    Role.STOCK: "stock kernel",
    Role.BOTH: "both roles",
}
_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}
_PARSING = threading.Lock()  # it gains nothing from several threads, and capstone is not for several
_SYMBOL = re.compile(r"k?(?:ernel|sym)\(")  # Provides of exported symbols, of which a kernel has thousands


def identify(paths: Sequence[Path], expected: Role | None, depth: Depth) -> Identification:
    """Identify packages, a kernel that several of them are parts of, and of two whether they work together.

    Raises `Refused` for a package that is damaged or hostile.
    """
    found = [read(path, depth) for path in paths]
    parts: dict[str, dict[str, int]] = {}  # places in `found` by kernel and package: one that is given twice is one
    for number, (identity, _) in enumerate(found):
        if identity.role is Role.PARTIAL and identity.kernel:
            parts.setdefault(identity.kernel, {}).setdefault(identity.package, number)
    joined = [list(numbers.values()) for numbers in parts.values() if len(numbers) > 1]
    in_whole = {number for numbers in joined for number in numbers}
    whole = tuple(
        with_expected(_whole([found[number] for number in numbers], depth), expected, [paths[n] for n in numbers])
        for numbers in joined
    )
    packages = tuple(
        identity if number in in_whole else with_expected(identity, expected, [paths[number]])
        for number, (identity, _) in enumerate(found)
    )
    single = [identity for number, identity in enumerate(packages) if number not in in_whole]
    pair = pair_of(*whole, *single) if len(whole) + len(single) == 2 and len(packages) > 1 else None
    return Identification(packages, whole, pair)


def read(path: Path, depth: Depth, *, signed: bool = False) -> tuple[Identity, Contents]:
    """Identify one package, and return what was read of it; raises as `identify` does.

    `signed`: its signatures were verified, so that a payload without evidence in it need not be unpacked.
    """
    try:
        with rpm_payload.opened(path) as package:
            return _read(path, package, depth, signed=signed)
    except Refused as error:
        if error.where != str(path):  # of a part of it
            error.what, error.where = f"{path.name}: {error.what.removeprefix(f'{path.name}: ')}", str(path)
        error.hint = error.hint or neutral.command(["rpmkeys", "--checksig", "-v", path])
        raise


def _read(path: Path, package: rpm_payload.Package, depth: Depth, *, signed: bool) -> tuple[Identity, Contents]:
    rows = [row.file for row in package.files.values() if not row.file.is_ghost]
    found = Contents(frozenset(file.path for file in rows), package.headers.arch)
    for file in rows:
        if not stat.S_ISREG(file.mode) and contents.is_boot_file(file.path):
            kind = _KINDS.get(stat.S_IFMT(file.mode), "a special file")
            raise package.refuse(f"{file.path} is {kind}; expected the file itself")
    wanted = found.wanted(depth)
    source = package.headers.arch == "src"  # whose files are no evidence of what is built of them
    if depth is Depth.HEADER or source or (signed and not wanted):
        package.verify()
    else:
        for name, data in package.read(wanted, whole=depth is Depth.MODULES):
            with _PARSING:
                found.add(name, data)
    verdict = Verdict(found, depth, path.name, Kind.SOURCE if source else None)
    return _identity(path, package, verdict), found


def _identity(path: Path, package: rpm_payload.Package, verdict: Verdict) -> Identity:
    claims = tuple(_claims(path, package.headers))
    identity = of_verdict(path.name, package.headers.nvra, verdict, tuple(package.digests), claims)
    problems = [problem for claim in claims if (problem := mismatch(identity, claim))]
    return with_problems(identity, problems)


def of_verdict(
    file: str, package: str, verdict: Verdict, digests: tuple[str, ...], claims: tuple[Claim, ...]
) -> Identity:
    """Return what a verdict says of a package, or of a host."""
    return Identity(
        file=file,
        package=package,
        kind=verdict.kind,
        role=verdict.role,
        has=verdict.has,
        kernel=verdict.kernel,
        interface=verdict.interface,
        options=tuple(verdict.options),
        tab_bits=verdict.tab_bits,
        digests=digests,
        depth=verdict.depth.name.lower(),
        evidence=tuple(verdict.evidence),
        claims=claims,
        problems=tuple(verdict.problems),
    )


def _whole(rows: Sequence[tuple[Identity, Contents]], depth: Depth) -> Identity:
    """Identify the kernel that packages are parts of."""
    files = " + ".join(identity.file for identity, _ in rows)
    verdict = Verdict(contents.joined(found for _, found in rows), depth, files)
    claims = {(claim.role, claim.text): claim for identity, _ in rows for claim in identity.claims}
    packages = " + ".join(identity.package for identity, _ in rows)
    identity = of_verdict(files, packages, verdict, (), tuple(claims.values()))
    return with_problems(identity, [found for claim in claims.values() if (found := mismatch(identity, claim))])


def _claims(path: Path, headers: RpmFile) -> Iterable[Claim]:
    """Yield the roles that the file's name, the package's name and its Provides claim."""
    header = headers.header
    version = f"{header.text(Tag.VERSION)}-{header.text(Tag.RELEASE)}"
    found: dict[tuple[str, Role], str] = {}  # of several Provides that claim the same the first is named
    if role := claimed(headers.name, version):
        found["name", role] = headers.nvra
    if path.name != headers.file_name:
        stem, *version_of_file = re.split(r"-(?=\d)", path.name, maxsplit=1)
        if role := claimed(stem, "".join(version_of_file)):
            found["file name", role] = path.name
    for row in headers.dependencies("PROVIDE"):
        name, _, rest = row.partition(" ")
        own = (
            name.removeprefix("config(").partition("(")[0].rstrip(")") == headers.name
        )  # its name is a claim by itself
        if not own and not _SYMBOL.match(name) and (role := claimed(name.partition("(")[0], rest)):
            found.setdefault(("Provides", role), row)
    yield from (Claim(source, text, role) for (source, role), text in found.items())


def mismatch(identity: Identity, claim: Claim) -> Problem | None:
    """Return the contradiction of a claim to the content; None where there is none, or no kernel to speak of."""
    if identity.role in (Role.NONE, Role.UNKNOWN) or identity.role.holds(claim.role):
        return None
    if identity.role is Role.PARTIAL and (not identity.has or claim.role in identity.has):
        return None
    what = f"{identity.file}: its {claim.source} claims a {_TEXTS[claim.role]} ({claim.text})"
    return Problem(f"{what}; its content is {_got(identity)}", _why(claim.role, identity), "")


def _got(identity: Identity) -> str:
    if identity.role is Role.PARTIAL and identity.has:
        return f"part of a {' and '.join(_TEXTS[role] for role in identity.has)}"
    text = _TEXTS.get(identity.role, str(identity.role))
    return text if identity.role in (Role.NONE, Role.UNKNOWN, Role.PARTIAL, Role.BOTH) else f"a {text}'s"


def _why(wanted: Role, identity: Identity) -> str:
    if wanted is Role.REALSERVER and Role.DIRECTOR in identity.has:
        return f"the guide's mistake: {WRONG_PATCH}"
    return "a name proves nothing, the content does"


def with_expected(identity: Identity, expected: Role | None, paths: Sequence[Path] = ()) -> Identity:
    """Return the identity, of packages at `paths` or of a host, with a problem if its role is not the expected one."""
    if expected is None or identity.role.holds(expected):
        return identity
    what = f"{identity.file}: wrong role by content; expected {expected}, got {identity.role}"
    if identity.role is Role.PARTIAL:
        what += f", {_got(identity)}"
    words: list[str | Path] = ["./inv", "identify", *paths, "--expect", str(expected)]
    hint = neutral.command(words) if paths and identity.depth != Depth.MODULES.name.lower() else ""
    return with_problems(identity, [Problem(what, _why(expected, identity), hint)])


def with_problems(identity: Identity, problems: Sequence[Problem]) -> Identity:
    """Return the identity with more problems."""
    return replace(identity, problems=(*identity.problems, *problems))


def problems(found: Identification) -> list[Problem]:
    """Return all problems of a result, that of the pair too."""
    rows = [problem for identity in (*found.packages, *found.whole) for problem in identity.problems]
    if found.pair and found.pair.related and not found.pair.works:
        state = "cannot be established" if found.pair.works is None else "they do not"
        what = f"{found.pair.first} and {found.pair.second}: work together: {state}: {'; '.join(found.pair.reasons)}"
        rows.append(Problem(what, "clients' addresses are lost in silence, or FULLNAT cannot be configured", ""))
    return rows


def check_files(paths: Sequence[Path]) -> None:
    """Raise `UsageError` for names that are no files."""
    for path in paths:
        if not path.is_file():
            got = "a directory" if path.is_dir() else "no regular file" if path.exists() else "no such file"
            hint = f"./inv identify {neutral.word(path)}/*.rpm" if path.is_dir() else "./inv identify FILE.rpm"
            raise UsageError(f"{path}: {got}; expected an RPM package", hint=hint)
