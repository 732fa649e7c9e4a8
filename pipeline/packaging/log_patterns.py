"""List what programs print when they fail: for each row the program, its words, and the kind of failure.

Must not know which lines of a log belong together; `log_errors` does.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Kind(enum.Enum):
    """Kind of failure, as far as a line shows it."""

    OTHER = enum.auto()
    COMMAND = enum.auto()  # a program that is missing or cannot be run
    NETWORK = enum.auto()
    PROCESSES = enum.auto()
    MEMORY = enum.auto()
    KILLED = enum.auto()  # by the kernel, which does it for lack of memory
    FILE_SIZE = enum.auto()
    DISK = enum.auto()


# What a host or a limit withheld: the programs after it only report what followed from that.
RESOURCES = frozenset({Kind.PROCESSES, Kind.MEMORY, Kind.KILLED, Kind.FILE_SIZE, Kind.DISK})


@dataclass(frozen=True)
class Cause:
    """Failure that one line reports."""

    kind: Kind
    sure: bool  # no probe prints such a line
    group: str  # lines of one group report one failure; empty: each line is its own
    file: str = ""  # source file of a compiler's line


@dataclass(frozen=True)
class _Row:
    who: re.Pattern[str] | None  # whole name of the program or file before the first colon; None: any line
    says: re.Pattern[str]  # searched behind that colon; in the whole line where `who` is None
    kind: Kind
    sure: bool
    group: str


def _row(who: str | None, says: str, kind: Kind = Kind.OTHER, *, group: str = "", sure: bool = True) -> _Row:
    return _Row(re.compile(who) if who is not None else None, re.compile(says), kind, sure, group)


_ANY_WORD = r".+"
_MAKE = r"g?make(\[\d+\])?"
_LINKER = r"(.*-)?ld(\.\w+)?"
_SHELL = r"(ba|da|k)?sh|.*\.sh|rpm-tmp\..*|configure|env|nice|xargs|" + _MAKE
_UNPACKER = r"(bsd)?tar( \(child\))?|(un|p)?xz|xzcat|p?gzip|gunzip|zcat|bzip2|bunzip2|bzcat|zstd|unzip|cpio|lzma"
# The words of errno that fail a command. "Broken pipe" is what a reader that has enough leaves behind.
_ERRNO = (
    r"(No such file or directory|Permission denied|Not a directory|Is a directory|Directory not empty|File exists"
    r"|Read-only file system|Operation not permitted|Input/output error|Too many open files|Text file busy"
    r"|Exec format error|Argument list too long|Invalid argument|Invalid cross-device link|Stale file handle"
    r"|Too many levels of symbolic links|Function not implemented|No such device or address)\.?$"
)
_LOOKED_AT = 1000  # characters of a line: what failed is said at its start

# The first row that fits counts. A row that is not sure loses against one that is, unless only it is near: probes
# print such lines too. A pattern must take time in proportion to the line: what may repeat stands behind a `^`.
_ROWS = (
    # What the machine or a limit withholds, said by whichever program meets it.
    _row(None, r"No space left on device|Disk quota exceeded", Kind.DISK, group="disk"),
    _row(
        None,
        r"Killed signal terminated program|: Killed \(program |\bKilled$|with signal 9 ",
        Kind.KILLED,
        group="killed",
    ),
    _row(_ANY_WORD, r"^(line \d+: )?\s*\d+ Killed\b", Kind.KILLED, group="killed"),
    _row(None, r"^(?=.*[Ff]ork).*(Resource temporarily unavailable|Cannot allocate memory)", Kind.PROCESSES),
    _row(None, r"[Cc]annot fork", Kind.PROCESSES),
    _row(None, r"[Cc]annot allocate memory|memory exhausted|[Oo]ut of memory|bad_alloc|^MemoryError", Kind.MEMORY),
    _row(None, r"File too large|File size limit exceeded", Kind.FILE_SIZE),
    _row(None, r"Network is unreachable|Temporary failure in name resolution", Kind.NETWORK),
    _row(None, r"[Cc]ould(n't| not) resolve|Name or service not known|unable to resolve", Kind.NETWORK),
    # make itself, and what it was told to say: `$(error ...)`.
    _row(_MAKE, r"^\*\*\* (?!\[)"),
    _row(_ANY_WORD, r"^\*\*\* \S.*\bStop\.$"),
    # Linkers.
    _row(_LINKER, r"^(?!skipping |mode |total |.*: in function )\S.*[^:]$", group="ld"),
    _row(None, r": undefined reference to |: multiple definition of |relocation truncated to fit", group="ld"),
    _row(None, r"\bcannot find -l|defined in discarded section|duplicate symbol", group="ld"),
    # modpost, kallsyms, BTF, kconfig, kABI checks, module signatures.
    _row("ERROR|FATAL", r"^(modpost: |\".*undefined!|.* undefined!$)", group="modpost"),
    _row(None, r"^Inconsistent kallsyms data|^kallsyms failure"),
    _row(None, r"^FAILED: load BTF |^BTF: |^Failed to (generate|encode) BTF", group="btf"),
    _row(None, r"^Encountered error while encoding BTF", group="btf"),
    _row(None, r"\bError in reading or end of file|\baborted!$|unset config items"),
    _row(None, r"^\s*\*{3,} ?(?i:error|fatal)\b"),
    _row(None, r"^\s*\*{3} .*(not found|missing|[Uu]nable|annot|failed|invalid|too old)", sure=False),
    _row(None, r"^- SSL error:|^[0-9A-F]{8,}:error:", group="signing"),
    _row("sign-file|extract-cert", r"", group="signing"),
    _row("gpg2?", r"failed|no default secret key|[Nn]o secret key|can't", group="signing", sure=False),
    # patch and tar.
    _row(None, r"^Hunk #\d+ FAILED|^\d+ out of \d+ hunks? (FAILED|failed|ignored)", group="patch"),
    _row(None, r"^(Reversed|Unreversed|Ignoring previously applied) .*patch", group="patch"),
    _row(None, r"^(can't find file to patch|No file to patch|The next patch )", group="patch"),
    _row(None, r"^File .* -- refusing to patch|^Patch \S+ does not apply", group="patch"),
    _row("patch", r"^\*\*\*\* |FAILED", group="patch"),
    _row(
        _UNPACKER,
        r"(?i)unexpected|\bnot in \w+ format|corrupt|invalid|not recognized|cannot|does not look like|\bcrc\b|no such"
        r"|error|truncated|premature|not found|integrity",
        group="unpack",
    ),
    # Compilers, assemblers, and every program that says "error" itself. rpm and git do so without their names.
    _row(_ANY_WORD, r"^\s*((fatal|Fatal|internal compiler) )?[Ee]rror: ", group="compiler"),
    _row(None, r"^([Ff]atal|[Ii]nternal) error\b|\berror while loading shared libraries: "),
    _row("error", r"", group="rpm"),
    _row("Error|E", r""),
    _row(_ANY_WORD, r"^\s*(ERROR|FATAL|Fatal|fatal|error [A-Z]\d+)\b", sure=False),
    _row("fatal", r"", sure=False),
    _row(None, r"^(ERROR|FATAL|FAILED|FAIL)\b(?!:? \[?\S*\.o\b)|^Found .* in installed files; aborting"),
    # Interpreters. What Python raised is told by `log_errors`, as it ends a traceback.
    _row(None, r"^(Can't |Undefined subroutine |Global symbol |syntax error at |Bareword )", group="perl"),
    _row(None, r" at \S+ line \d+\.$", group="perl", sure=False),
    _row(
        _SHELL, r"(?i)(\d: |^)(cannot|can't) \w|: (unbound variable|parameter not set|ambiguous redirect)", sure=False
    ),
    _row(_ANY_WORD, r"(^|: )([Cc]ommand )?not found$", Kind.COMMAND, sure=False),
    _row(
        _SHELL,
        r": (No such file or directory|Permission denied|Argument list too long|Exec format error)$",
        Kind.COMMAND,
        sure=False,
    ),
    # Any other program.
    _row(None, r"\b(Segmentation fault|Bus error|Illegal instruction|core dumped)\b", sure=False),
    _row(None, r"^(?=.*[Aa]ssertion).*failed", sure=False),
    _row(
        "(.*-)?(objcopy|strip|ar|as|nm|ranlib)|sed|[gmn]?awk|(cp|mv|ln|install|mkdir)", r"^(?!creating )\S", sure=False
    ),
    _row(_ANY_WORD, _ERRNO, sure=False),
    _row(_ANY_WORD, r"(?i)^(.*: )?(syntax error|unexpected EOF while|bad substitution)", sure=False),
    _row(
        _ANY_WORD,
        r"(?i)^(cannot|can't|could not|couldn't|unable to|failed|invalid|unrecognized|unknown|illegal|missing|bad) ",
        sure=False,
    ),
    _row(None, r"^(No package '.*' found|Package \S+ was not found in)", group="pkg-config", sure=False),
    _row(None, r"^(Failed|Cannot|Could not|Unable|Invalid) \S", sure=False),
)

# What only says that something begins: kbuild's short lines, a shell's trace, commands, what configure looks for, the
# source below a compiler's line.
_PROGRESS = re.compile(
    r"  (\[M\] )?[A-Z][A-Z0-9_.+-]*( \[\w\])* +\S|checking |(echo|printf|if|for|test|while|case|set) |\++ "
    r"|[^\s:]+ --?\w|" + _MAKE + r": (Entering|Leaving|Nothing|\S+ is up to date)|[ \d]* \|"
)
# Each row of the table needs one of these, in small letters: most lines of a log have none.
_NEEDED = (
    "error|fail|fatal|fault|undefined|unknown|unrecognized|unexpected|invalid|illegal|missing|cannot|n't |not |no "
    "|unable|could|kill|memory|alloc|fork|too l|too many|too old|space|quota|exceeded|denied|permitted|unreachable"
    "|*** |multiple|duplicate|truncated|inconsistent|abort|assertion|bareword|unset|ignored|reversed|patch|refusing"
    "|corrupt|premature|crc|integrity|bad |symbol| line |instruction|dumped|exists|busy|is a d|read-only|cross-device"
    "|stale|nonexistent|discarded|ld: |sign-file: |extract-cert: |objcopy: |strip: |sed: |awk: |btf: |e: "
)
_NEEDED_WORDS = _NEEDED.split("|")
# Lines with an error's words that are none: warnings, what a check may ignore, and what only passes an error on.
_MILD = re.compile(r"(\*+ |\S+: ){0,4}\s*([Ww]arning|WARNING|WARN|W:|[Nn]ote:|NOTE:|info:|INFO:)")
_WHERE = re.compile(r"In file included from |\s+from \S+:\d|\S+: (In function|At top level|Assembler messages)\b")
_HARMLESS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bconftest\b|\(ignored\)$|cannot be preloaded|Broken pipe$|errors?: (none|no|0)\b",
        r"^configure: error: in .*:$|warnings being treated as errors|recipe for target |not remade because of errors"
        r"|: \*\*\* Waiting for |\*\*\* Deleting |compilation terminated",
        r"(returned|exited with|failed with|exit) (an? )?(non-zero )?(error |exit )?(code|status)\b",
        r"^(Use of uninitialized|Possible |Useless use of |Unescaped left brace)|is deprecated at |redefined at ",
    )
)
_SPEAKER = re.compile(r"(\{standard input\}|tar \(child\)|[^\s:]+)((?::[\d.,-]+)*):(?: |(?=\S))")


def is_trace(line: str) -> bool:
    """Return whether a shell printed the command that it runs next."""
    return line.startswith("+") and line.lstrip("+").startswith(" ")


def is_progress(line: str) -> bool:
    """Return whether a line only says what begins: the output of the program before has ended."""
    return _PROGRESS.match(line) is not None


def is_warning(line: str) -> bool:
    """Return whether a line warns, or says where the next one does."""
    return _MILD.match(line) is not None or _WHERE.match(line) is not None


def cause(line: str) -> Cause | None:
    """Return what a line without colours reports as failed; None for any other line."""
    if line.startswith("checking "):  # old configure scripts fail on the line on which they looked
        return Cause(Kind.OTHER, True, "") if "configure: error: " in line else None
    line = line[:_LOOKED_AT]
    if is_progress(line) or not _has_needed(line) or _MILD.match(line):
        return None
    spoken = _SPEAKER.match(line)
    path = spoken[1] if spoken else ""
    row = _first_row(path.rpartition("/")[2], line[spoken.end() :] if spoken else "", line)
    if row is None or any(pattern.search(line) for pattern in _HARMLESS):
        return None
    if row.group == "compiler":
        return Cause(row.kind, row.sure, path, path if spoken and spoken[2] else "")
    return Cause(row.kind, row.sure, row.group)


def kind(line: str) -> Kind:
    """Return the kind of failure that a line reports."""
    found = cause(line)
    return found.kind if found else Kind.OTHER


def _has_needed(line: str) -> bool:
    small = line.lower()
    return any(word in small for word in _NEEDED_WORDS)


def _first_row(name: str, rest: str, line: str) -> _Row | None:
    for row in _ROWS:
        if row.who is None:
            if row.says.search(line):
                return row
        elif name and row.who.fullmatch(name) and row.says.search(rest):
            return row
    return None
