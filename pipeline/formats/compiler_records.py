"""Read what a compiler recorded of one compilation: the files that it read.

Kbuild keeps the command and these files in `.NAME.cmd` beside each object, written by scripts/basic/fixdep; other
builds have rules of make, from gcc's `-MD` or automake's dependency tracking. Proves nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KBUILD, MAKE = ".cmd", (".d", ".Po", ".Plo")  # how the names of such files end; the last are libtool's
_COMMAND = re.compile(r"^(?:saved)?cmd_[^\n]*?:=([^\n]*)", re.MULTILINE)  # `savedcmd_` since Linux 6.2
_SOURCE = re.compile(r"^source_[^\n]*?:=([^\n]*)", re.MULTILINE)  # since Linux 3.0; before, it stands first in `deps_`
_READ = re.compile(r"^deps_[^\n]*?:=((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
_RULE = re.compile(r"^[^\s#:][^\n:]*:((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)
_CONFIGURATION = re.compile(r"\$\(wildcard[^)]*\)")  # a symbol that the file depends on
_KERNEL = re.compile(r"(?:^|\s)-D__KERNEL__(?:\s|$)")


@dataclass(frozen=True)
class Compilation:
    """One compilation: the files that it read, the source first, and whether it is of kernel code.

    Kbuild defines `__KERNEL__` for everything that becomes part of the kernel or its modules, and for nothing that
    runs in the build.
    """

    files: tuple[str, ...]
    is_kernel: bool


def parse_kbuild(text: str) -> Compilation | None:
    """Parse a `.cmd` file; None for one of another command, such as a linker's."""
    read, source, command = _READ.search(text), _SOURCE.search(text), _COMMAND.search(text)
    if read is None or command is None:  # a linker reads no sources, and a list of Kconfig files has no command
        return None
    files = [*_words(source[1] if source else ""), *_words(_CONFIGURATION.sub("", read[1]))]
    return _compilation(files, is_kernel=_KERNEL.search(command[1]) is not None)


def parse_rules(text: str) -> Compilation | None:
    """Parse the rules of one object; None where nothing was compiled."""
    return _compilation([word for rule in _RULE.finditer(text) for word in _words(rule[1])], is_kernel=False)


def _compilation(files: list[str], *, is_kernel: bool) -> Compilation | None:
    return Compilation(tuple(dict.fromkeys(files)), is_kernel) if files else None


def _words(text: str) -> list[str]:
    """Return the file names of a line that may go on behind backslashes. Names with blanks are in no tree of ours."""
    return text.replace("\\\n", " ").replace("$(pound)", "#").split()
