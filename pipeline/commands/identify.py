"""Print what packages, or this host's kernel, are: role, option number, evidence, contradictions."""

from __future__ import annotations

from pathlib import Path

from pipeline.audit import identify as audit
from pipeline.audit.identity import Identification, Identity, Kind, Role
from pipeline.commands.task import Outcome
from pipeline.config.context import RunContext
from pipeline.core.console import Console
from pipeline.errors import ExitCode, UsageError
from pipeline.inspect.contents import Depth

EXPECTED = tuple(str(role) for role in (Role.DIRECTOR, Role.REALSERVER, Role.BOTH, Role.STOCK))
DEPTHS = tuple(depth.name.lower() for depth in Depth)


def identify(context: RunContext, files: list[str], expect: str, depth: str, *, installed: bool) -> Outcome:
    """Identify files or the running kernel, print it, and return the result with its exit code.

    Raises `UsageError` for neither or both, and `Refused` for a damaged or hostile package.
    """
    if installed == bool(files):
        what = "identify: expected packages, or --installed alone"
        raise UsageError(what, hint="./inv identify FILE.rpm, or ./inv identify --installed")
    expected = Role(expect) if expect else None
    if installed:
        from pipeline.audit import installed_kernel

        found = Identification((audit.with_expected(installed_kernel.identify(), expected),))
    else:
        paths = [Path(file) for file in files]
        audit.check_files(paths)
        found = audit.identify(paths, expected, Depth[(depth or DEPTHS[-1]).upper()])
    _print(context.console, found)
    return Outcome(found, ExitCode.REFUSED if audit.problems(found) else ExitCode.OK)


def _print(console: Console, found: Identification) -> None:
    for identity in (*found.packages, *found.whole):
        _print_identity(console, identity)
    if found.pair is not None:
        word = {True: "yes", False: "no", None: "unknown"}[found.pair.works] if found.pair.related else "does not apply"
        console.say(f"the two work together: {word}")
        for reason in found.pair.reasons:
            console.say(f"  {reason}")
    for problem in audit.problems(found):
        console.say(f"problem: {problem.what}")
        console.say(f"  why: {problem.why}")
        if problem.next:
            console.say(f"  next: {problem.next}")


def _print_identity(console: Console, identity: Identity) -> None:
    of_kernel = identity.kind in (Kind.KERNEL, Kind.PARTIAL, Kind.MODULES)
    rows = [
        ("kind", identity.kind),
        ("role", f"{identity.role}{_signs(identity)}"),
        *((("kernel", identity.kernel or "none"),) if of_kernel else ()),
        *((f"TOA option {option.use}", f"{option.text} ({option.how})") for option in identity.options),
        *((("TAB_BITS", "none found" if identity.tab_bits is None else identity.tab_bits),) if of_kernel else ()),
        ("digests that hold", ", ".join(identity.digests) or "none: it carries none"),
        ("read down to", identity.depth),
        *((f"claim by {claim.source}", f"{claim.role} ({claim.text})") for claim in identity.claims),
    ]
    if not identity.options and of_kernel and identity.role is not Role.PARTIAL:
        rows.insert(3, ("TOA option", "none is written or read" if identity.role is Role.STOCK else "unknown"))
    console.table(("what", "value"), rows, identity.package)
    if identity.evidence:
        console.say()
        evidence = [(row.about, row.text, row.where, row.how) for row in identity.evidence]
        console.table(("about", "evidence", "where", "read from"), evidence)
    console.say()


def _signs(identity: Identity) -> str:
    if identity.role is not Role.PARTIAL:
        return ""
    return f", with the signs of: {', '.join(identity.has)}" if identity.has else ", without a sign of a role"
