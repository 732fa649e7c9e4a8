"""Write the manual page out of verbs and settings: docs/lvs-fullnat.1, in the macros of man(7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipeline import __version__
from pipeline.cli.help import OPTIONS
from pipeline.config.command_line import Parameter, Verb
from pipeline.config.settings import ROWS, SETTINGS_FILE, Setting
from pipeline.errors import ExitCode

NAME = "lvs-fullnat"
_DESCRIPTION = (
    "Builds, proves and publishes LVS-FULLNAT and TOA kernels with their tools. In a checkout the program is ./inv,"
    " installed it is lvs-fullnat. A verb takes LINE, the name of a line, as a word or as --line LINE; several verbs in"
    " a row run one after the other, until one fails. An option's value follows behind a blank or =.",
    "Results go to standard output, notes and errors to standard error.",
)
_PLACES = (
    (SETTINGS_FILE, "settings, in the working directory; FNAT_SETTINGS names another file"),
    ("artifacts/", "everything that is made: store, steps, repositories, reports"),
    ("docs/", "the documents of the checkout, operating.md first"),
)


def page(verbs: Iterable[Verb]) -> str:
    """Return the page."""
    known = list(verbs)
    parts = [
        '.\\" Made by `python -m pipeline.cli.docs man`; do not edit.\n',
        f'.TH {NAME.upper()} 1 "" "{NAME} {__version__}"\n',
        _section("NAME", [f"{NAME}, inv \\- {_text('build, prove and publish LVS-FULLNAT kernels')}\n"]),
        _section("SYNOPSIS", [f"\\fB./inv\\fR {_text('VERB [LINE] [WORDS] [OPTIONS]')}\n"]),
        _section("DESCRIPTION", _paragraphs(_DESCRIPTION)),
        _section("OPTIONS WITHOUT A VERB", _list(OPTIONS)),
        _section("VERBS", _verbs(known)),
        _section("SETTINGS", [*_paragraphs([_precedence()]), *_list(map(_setting, ROWS))]),
        _section("EXIT STATUS", _list((str(code.value), code.meaning) for code in ExitCode)),
        _section("FILES", _list(_PLACES)),
        _section("EXAMPLES", _examples(known)),
    ]
    return "".join(parts)


def _precedence() -> str:
    return (
        "Most options are settings: the option counts first, then the environment variable, then the key in"
        f" {SETTINGS_FILE}, which is the option without its dashes, then the default."
    )


def _verbs(verbs: Sequence[Verb]) -> Iterator[str]:
    """Yield each verb with its own words and options, and the names of the settings that it takes."""
    for verb in verbs:
        own = [each for each in verb.parameters.values() if each.name in verb.words or not each.setting]
        settings = [row.option for row in ROWS if row.name in verb.parameters and verb.parameters[row.name].setting]
        yield f".SS {_quoted(f'./inv {verb.usage}')}\n"
        yield from _paragraphs([verb.summary])
        yield from _list((_typed(verb, each), each.help) for each in own)
        yield from _paragraphs([f"Settings: {', '.join(settings)}."])


def _typed(verb: Verb, parameter: Parameter) -> str:
    return f"{parameter.value}, {parameter.typed}" if parameter.name in verb.words else parameter.typed


def _setting(row: Setting) -> tuple[str, str]:
    default = f" [{row.default_shown}]" if row.default_shown else ""
    typed = row.option if row.kind == "flag" else f"{row.option}={row.value_shown}"
    return f"{typed}, {row.variable}", f"{row.help}{default}"


def _examples(verbs: Sequence[Verb]) -> Iterator[str]:
    yield ".nf\n"
    for verb in verbs:
        yield f"{_text(f'./inv {verb.example}')}\n"
    yield ".fi\n"


def _section(title: str, parts: Iterable[str]) -> str:
    return f".SH {_quoted(title)}\n{''.join(parts)}"


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield f".PP\n{_text(text)}\n"


def _list(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield f".TP\n\\fB{_text(term)}\\fR\n{_text(text)}\n"


def _quoted(text: str) -> str:
    return '"' + _text(text).replace('"', "\\(dq") + '"'


def _text(text: str) -> str:
    """Return text for a line of its own: neither an escape nor a request, and a dash that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
