"""Every option, verb, file and module that a text of the project names exists.

Texts are string constants with a blank in them, docstrings and comments of the code; comments of scripts, templates and
data; and the pages for people. A constant without a blank is an argument of some program, which tests of its own run.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from invoke.collection import Collection

import tasks
from pipeline.config.settings import TABLE

ROOT = Path(__file__).parents[2]
PYTHON = sorted([ROOT / "tasks.py", *(ROOT / "pipeline").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")} - {ROOT / "CHANGELOG.md"})  # it names what went
DATA = sorted(
    [ROOT / "inv", ROOT / "pyproject.toml"]
    + [
        path
        for top in ("specs", "containers", "lines", "patches", "ci")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix != ".patch"  # in the words of the program that is patched
    ]
)
TOPS = ("pipeline", "tests", "docs", "lines", "patches", "specs", "containers", "ci", "bench", "requirements")

VERBS: Mapping[str, frozenset[str]] = {
    name: frozenset(task.verb.parameters) for name, task in Collection.from_module(tasks).tasks.items()
}
GLOBAL = frozenset({"help", "list", "version", "complete", "print-completion-script"})
OWN = GLOBAL.union(TABLE, *VERBS.values())
# Options of other programs, and whose they are: a text that names one names the program too.
FOREIGN: Mapping[str, str] = {
    **dict.fromkeys(
        ("fullnat", "add-laddr", "edit-laddr", "del-laddr", "get-laddr", "laddr", "sched-flags", "start-daemon"),
        "ipvsadm",
    ),
    "now": "systemctl",
    "system": "useradd",
    "create-home": "useradd",
    "home-dir": "useradd",
    "delete": "rsync",
    "chmod": "rsync",
    "export-secret-keys": "gpg",
    "armor": "gpg",
    "kill-whom": "systemctl",
    "signal": "systemctl",
    "nodaemon": "twistd",
    "pidfile": "twistd",
    "python": "twistd",
    "fork": "setsid",
    "generate-key": "gpg",
    "all": "git",
    "backup": "mv",
    "batch": "gpg",
    "card-status": "gpg",
    "check-sigs": "gpg",
    "define": "rpmbuild",
    "define-macro": "compiler",
    "dport": "iptables",
    "export": "gpg",
    "import": "gpg|rpm|mokutil",
    "sb-state": "mokutil",
    "secluded-args": "rsync",
    "trust-mok": "mokutil",
    "key": "sbsign",
    "cert": "sbsign",
    "output": "sbsign",
    "info": "grubby",
    "default-kernel": "grubby",
    "set-default": "grubby",
    "no-hostonly": "dracut",
    "verbose": "kernel-install",
    "list-secret-keys": "gpg",
    "no-all-versions": "apt-cache",
    "show-log-stats": "ccache",
    "stable": "git",
    "strict": "mypy",
    "to-ports": "iptables",
    "whatprovides": "rpm",
    "with-kernel-dir": "keepalived",
    "show-keys": "gpg",
    "with-colons": "gpg",
    "list-keys": "gpg",
    "check": "sha256sum",
    "dbpath": "rpmkeys",
    "checksig": "rpmkeys",
    "numstat": "git",
    "git": "diff",
    "global": "git",
    "print-uris": "apt",
    "qf": "rpm",
    "query": "rpm",
    "queryformat": "rpm",
    "xml": "rpm",
    "with": "rpmbuild",
    "without": "rpmbuild",
    "die-with-parent": "bubblewrap",
    "unshare-all": "bubblewrap",
    "pdeathsig": "setpriv",
    "rbind": "mount",
    "add-subuids": "usermod",
    "add-subgids": "usermod",
    "require-hashes": "pip",
    "no-install-recommends": "apt",
    "format": "ruff",
    "body": "ask",
    "together": "ask|request|connect",
    "to-source": "SNAT",
    "timeout": "ask|connect",
    "ctstate": "iptables",
}
# Files that belong to others, and whose they are.
FOREIGN_FILES: Mapping[str, str] = {
    "docs/manual/format_lead.md": "RPM",
    "docs/manual/format_v4.md": "RPM",
    "docs/manual/format_header.md": "RPM",
}
MADE = re.compile(r"lines/[\w-]+\.lock\.toml")  # by a verb


class Text(NamedTuple):
    """A text of the project and where it begins."""

    place: str
    text: str


def python_texts(source: str, name: str) -> Iterator[Text]:
    """Comments, docstrings, and constants with a blank; `{}` stands for an f-string's fields."""
    inside = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        if re.search(r"\s", text):
            yield Text(f"{name}:{node.lineno}", text)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(f"{name}:{token.start[0]}", token.string)


def data_texts(path: Path) -> Iterator[Text]:
    """Comments of scripts, templates and data; comments in lines that follow each other are one."""
    lines = path.read_text(errors="replace").splitlines()
    comments = [re.search(r"(?:^|\s)(?:#|//|/?\*)(?:\s.*|$)|\{#.*", line) for line in lines]
    for commented, numbered in itertools.groupby(enumerate(comments, 1), lambda item: item[1] is not None):
        if commented:
            rows = list(numbered)
            yield Text(f"{path.relative_to(ROOT)}:{rows[0][0]}", "\n".join(found[0] for _, found in rows if found))


def texts() -> list[Text]:
    found = [text for path in PYTHON for text in python_texts(path.read_text(), str(path.relative_to(ROOT)))]
    for page in PAGES:
        lines = page.read_text().splitlines()
        found += [Text(f"{page.relative_to(ROOT)}:{number}", line) for number, line in enumerate(lines, 1)]
    return found + [text for path in DATA for text in data_texts(path)]


TEXTS = texts()


def commands(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The verb of every `./inv VERB ...` in a text, and the options behind it up to the end of the command."""
    for found in re.finditer(r"(?:\./|`)inv ([a-z][\w-]*)([^`\n|;&]*)", text):
        yield found[1], re.findall(r"(?<![\w-])--([a-z][\w-]*)", found[2].partition(", ")[0])


def unknown_options(text: str) -> list[str]:
    found = []
    text = re.sub(r"^--\S+", "", text)  # an argument of a program with a blank in its value
    for option in re.findall(r"(?<![\w,-])--([a-z][a-z0-9-]*[a-z0-9])", text):
        program = FOREIGN.get(option)
        if option not in OWN and (program is None or not re.search(rf"\b(?:{program})", text, re.IGNORECASE)):
            found.append(f"--{option}")
    return found


def unknown_commands(text: str) -> list[str]:
    found = []
    for verb, options in commands(text):
        if verb not in VERBS:
            found.append(f"./inv {verb}")
            continue
        found += [f"./inv {verb} --{option}" for option in options if option not in VERBS[verb] | GLOBAL]
    return found


def unknown_files(text: str) -> list[str]:
    """Pages, and paths below the project's own directories, that are not there; patterns and URLs are none."""
    found = []
    text = re.sub(r"\w+://\S+", "", text)
    for name in re.findall(r"(?<![\w/.{}<>*-])([A-Za-z][\w./-]*\.md)\b(?!\.)", text):
        owner = FOREIGN_FILES.get(name)
        if not (ROOT / name).exists() and not (ROOT / "docs" / name).exists() and (owner is None or owner not in text):
            found.append(name)
    for name in re.findall(rf"(?<![\w/.{{}}<>*-])((?:{'|'.join(TOPS)})/[\w./-]*\w)(?![\w*{{<]|/[*{{<A-Z])", text):
        if (
            not re.search(r"[A-Z]{2,}|\.\.\.", name)
            and not MADE.fullmatch(name)
            and name not in FOREIGN_FILES
            and not (ROOT / name).exists()
        ):
            found.append(name)
    return found


def unknown_modules(text: str) -> list[str]:
    """Dotted names below `pipeline` whose package or module is not there; the last part may be something in it."""
    found = []
    for name in re.findall(r"(?<![\w./])pipeline(?:\.[a-z_][\w]*)+", text):
        path = ROOT.joinpath(*name.split("."))
        if not any(place.is_dir() or place.with_suffix(".py").is_file() for place in (path, path.parent)):
            found.append(name)
    return found


CHECKS = (unknown_options, unknown_commands, unknown_files, unknown_modules)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_a_text_names_exists(check: object) -> None:
    assert callable(check)
    assert [f"{text.place}: {name}" for text in TEXTS for name in check(text.text)] == []


def test_the_texts_are_there() -> None:
    """Else the tests above could find nothing."""
    places = {text.place.partition(":")[0] for text in TEXTS}
    assert {"README.md", "docs/trust.md", "pipeline/core/fs.py", "tasks.py", "inv", "lines/el6.toml"} <= places
    assert sum(1 for text in TEXTS for _ in commands(text.text)) > 50


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("use --small for this", "--small"),
        ("rpm has --numstat", "--numstat"),
        ("next: ./inv bild el6", "./inv bild"),
        ("next: ./inv lines --scenario boot", "./inv lines --scenario"),
        ("see domain.md, section 2", "domain.md"),
        ("see docs/nothing.md", "docs/nothing.md"),
        ("`tests/unit/nothing.py` holds it", "tests/unit/nothing.py"),
        ("pipeline.nothing.much knows it", "pipeline.nothing.much"),
    ],
)
def test_a_name_of_nothing_would_be_seen(text: str, name: str) -> None:
    assert name in [found for check in CHECKS for found in check(text)]


@pytest.mark.parametrize(
    "text",
    [
        "./inv build-all el6 --offline, then ./inv lab --scenario boot",
        "`git apply --numstat` counts lines",
        "docs/lines.md, trust.md and pipeline/core/fs.py",
        "patches/LINE/series.toml, lines/*.toml and https://example.org/docs/x.md",
        "`pipeline.core.fs.sha256_of` hashes",
    ],
)
def test_names_of_things_that_exist_pass(text: str) -> None:
    assert [found for check in CHECKS for found in check(text)] == []
