"""Define what `identify` says of a package or host: kind, role, option, evidence, claims, problems."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pipeline.inspect.module_facts import Interface


class Kind(StrEnum):
    """Kind of a package."""

    KERNEL = "kernel"
    PARTIAL = "part of a kernel"
    MODULES = "modules for a kernel"
    TOOL = "director's tool"
    READER = "TOA reader for stock kernels"
    SOURCE = "source package"
    OTHER = "neither kernel, modules nor tool"


class Role(StrEnum):
    """The role that a package has by its content."""

    DIRECTOR = "director"
    REALSERVER = "realserver"
    BOTH = "both"
    STOCK = "stock"
    PARTIAL = "partial"
    NONE = "no kernel"
    UNKNOWN = "unknown"

    def holds(self, claimed: Role) -> bool:
        """Return whether a package of this role is what the claim says."""
        return self is claimed or (self is Role.BOTH and claimed in (Role.DIRECTOR, Role.REALSERVER))


@dataclass(frozen=True)
class Evidence:
    """A piece of evidence: about which statement, its text, where it was read, and how."""

    about: str
    text: str
    where: str
    how: str


@dataclass(frozen=True)
class Option:
    """The number of TCP option TOA, as it is `written` by a director or `read` by a server; no numbers: unknown."""

    use: str
    numbers: tuple[int, ...]
    how: str

    @property
    def text(self) -> str:
        """The numbers, or that they are unknown."""
        return ", ".join(map(str, self.numbers)) or "unknown"


@dataclass(frozen=True)
class Claim:
    """A role that a package's name or Provides claims."""

    source: str
    text: str
    role: Role


@dataclass(frozen=True)
class Problem:
    """A contradiction, why it matters, and the next command."""

    what: str
    why: str
    next: str


@dataclass(frozen=True)
class Identity:
    """The identity of a package. `has` are the roles that its content has signs of, whether or not it is whole."""

    file: str
    package: str
    kind: Kind
    role: Role
    has: tuple[Role, ...]
    kernel: str
    interface: Interface
    options: tuple[Option, ...]
    tab_bits: int | None
    digests: tuple[str, ...]
    depth: str
    evidence: tuple[Evidence, ...]
    claims: tuple[Claim, ...]
    problems: tuple[Problem, ...]

    def option(self, use: str) -> Option | None:
        """Return the option that is written or read; None where nothing of the package does that.

        Of several modules the numbers of all, none where that of one is unknown.
        """
        found = [option for option in self.options if option.use == use]
        if len(found) < 2:
            return found[0] if found else None
        numbers = {number for option in found for number in option.numbers if all(each.numbers for each in found)}
        return Option(use, tuple(sorted(numbers)), "; ".join(option.how for option in found))


@dataclass(frozen=True)
class Pair:
    """Whether two packages work together: `works` is None where that cannot be established."""

    first: str
    second: str
    works: bool | None
    related: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Identification:
    """The result of a run: packages in the order given, a kernel put together of parts, the pair, refusals."""

    packages: tuple[Identity, ...]
    whole: tuple[Identity, ...] = ()
    pair: Pair | None = None


# Words in a name by the role that they claim; those of the first row count before those of the second, which are the
# project's own name for all of its packages.
_WORDS = (
    {"director": Role.DIRECTOR, "realserver": Role.REALSERVER, "toa": Role.REALSERVER, "stock": Role.STOCK},
    {"fnat": Role.DIRECTOR, "fullnat": Role.DIRECTOR},
)


def claimed(name: str, version: str) -> Role | None:
    """Return the role that a package's name claims, else that of its version and release; None without any."""
    for text in (name, version):
        words = re.split(r"[^a-z]+", text.lower())
        for table in _WORDS:
            if found := {table[word] for word in words if word in table}:
                return next(iter(found)) if len(found) == 1 else Role.BOTH
    return None
