"""Read line files, with the series file beside a line of the project and the line that an override extends.

Every mistake is reported at once, with file:line and what is allowed.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import line_checks
from pipeline.config.line_checks import Found, Toml, existing
from pipeline.config.line_model import Line, LineData, Override
from pipeline.core import fs, neutral, resources
from pipeline.core.suggestion import did_you_mean, unknown
from pipeline.errors import FileProblems, Problem, UsageError

LARGEST = 4 << 20  # bytes of a line file; the largest has 40 thousand


@dataclass(frozen=True)
class _Document:
    """A parsed TOML file with its text, for the line numbers of its keys."""

    path: Path
    text: str
    sha256: str
    raw: Toml

    def line(self, path: Sequence[str | int]) -> int:
        from pipeline.formats import toml_lines

        return toml_lines.line_of(self.text, path)


def load(name: str | None = None, line_file: Path | None = None) -> Line:
    """Load the line called `name`, or the one in `line_file`, which may extend a line of the project.

    Raises `UsageError` when there is no such line and `FileProblems` with every mistake at once.
    """
    if line_file is not None:
        own, ours = line_file.resolve(), resources.lines_dir()  # however a line of the project is named
        line = _load_file(ours / own.name if own.parent == ours.resolve() else line_file)
        if name not in (None, line.name):
            raise UsageError(
                f"--line-file holds the line {line.name}, not {name}", where=str(line_file), hint="leave --line out"
            )
        return line
    path = resources.lines_dir() / f"{name}.toml"
    if name not in resources.line_names():
        raise unknown("line", name or "", resources.line_names(), hint="./inv lines")
    return _load_file(path)


def refusal(line: Line, found: Iterable[Found]) -> FileProblems:
    """Locate mistakes that were found in a line after it was read, such as those of its recipe."""
    documents = [_read(path) for path in line.files]
    problems = [_locate(documents, *item) for item in found]
    title = f"{len(problems)} mistake(s) in the line file {line.files[0]}"
    return FileProblems(title, problems, hint="docs/lines.md describes every key")


def _load_file(path: Path) -> Line:
    own = _read(path)
    base_name = own.raw.get("extends")
    documents, override = [own], None
    if base_name is not None:
        documents.append(_base_document(own, base_name))
    series = resources.patches_dir() / documents[-1].path.stem / "series.toml"
    if series.is_file() and documents[-1].path.parent == resources.lines_dir():
        documents.append(_read(series))
    if base_name is not None:
        base: Toml = {}
        for document in documents[1:]:
            base = _merged(document.raw, base)
        changes = tuple(sorted(set(_changes(own.raw, base))))
        override = Override(str(base_name), str(path), own.sha256, changes)
    data = _validated(documents, overriding=override is not None)
    beside = resources.locks_dir() if path.parent == resources.lines_dir() else path.parent
    lock = beside / f"{path.name.removesuffix('.toml')}.lock.toml"
    # Not where they are inherited: what an override says of itself would not tell of other spec files.
    names_specs = path.parent != resources.lines_dir() and "specs" in own.raw.get("build", {})
    own_specs = path.parent / "specs" if names_specs else None
    return Line(data, tuple(document.path for document in documents), lock, override, own_specs)


def _base_document(own: _Document, base_name: object) -> _Document:
    mistakes = []
    if base_name not in resources.line_names():
        what = f"no line {base_name!r}{did_you_mean(str(base_name), resources.line_names())}"
        mistakes.append(Problem(str(own.path), own.line(["extends"]), what, ", ".join(resources.line_names())))
    elif own.raw.get("name", base_name) == base_name:
        allowed = f"a name of its own, such as {base_name}-house"
        mistakes.append(
            Problem(str(own.path), own.line(["name"]), "an override must not bear the base's name", allowed)
        )
    if mistakes:
        raise FileProblems(f"1 mistake in {own.path}", mistakes)
    return _read(resources.lines_dir() / f"{base_name}.toml")


def _read(path: Path) -> _Document:
    try:
        data = fs.read_limited(path, LARGEST)
        text = _decoded(data, path)
        return _Document(path, text, hashlib.sha256(data).hexdigest(), tomllib.loads(text))
    except FileNotFoundError:
        raise UsageError("the line file: not found", where=str(path), hint="./inv lines") from None
    except OSError as error:
        raise UsageError(
            f"the line file cannot be read: {error.strerror}", where=str(path), hint="./inv lines"
        ) from None
    except ValueError as error:  # also a number of more digits than Python takes
        found = re.search(r"at line (\d+)", str(error))
        number = int(found[1]) if found else 1 if "at end of document" not in str(error) else text.count("\n") + 1
        raise FileProblems(f"{path} is not TOML", [Problem(str(path), number, str(error))]) from None
    except RecursionError:
        raise FileProblems(f"{path} is not TOML", [Problem(str(path), 1, "it is nested too deeply")]) from None


def _decoded(data: bytes, path: Path) -> str:
    """Return a line file's text. Raises `FileProblems` for another character set than TOML's, and for a mark of one."""
    line, remedy = 1, ""
    if data.startswith(codecs.BOM_UTF8):
        what, remedy = "it begins with a byte order mark", "tail -c +4"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        what, remedy = "it is UTF-16", "iconv -f UTF-16 -t UTF-8"
    elif b"\0" in data[:2]:
        what = "it is UTF-16 or UTF-32 without a byte order mark, or no text"
    else:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            what = f"it is no text, or not UTF-8: byte 0x{data[error.start]:02x}"
    hint = f"{remedy} {neutral.word(path)} > {neutral.word(f'{path}.plain')}" if remedy else ""
    problem = Problem(str(path), line, what, "UTF-8 without a byte order mark")
    raise FileProblems(f"{path} is not TOML", [problem], hint=hint)


def _changes(own: Toml, base: Toml, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the keys that `own` sets, as deep as `base` has tables."""
    for key, value in own.items():
        if prefix or key not in ("schema", "extends", "name", "title"):
            if _goes_deeper(key, value, base):
                yield from _changes(value, base[key], f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"


def _merged(own: Toml, base: Toml) -> dict[str, object]:
    """Merge `own` into `base`: tables key by key, everything else whole."""
    result = dict(base)
    for key, value in own.items():
        result[key] = _merged(value, result[key]) if _goes_deeper(key, value, result) else value
    return result


def _goes_deeper(key: str, value: Any, base: Toml) -> bool:
    """Return whether a table is merged key by key; what a patch leaves out is replaced whole."""
    return key != "effect" and isinstance(value, dict) and isinstance(base.get(key), dict)


def _validated(documents: Sequence[_Document], *, overriding: bool) -> LineData:
    """Return the merged line; attribute mistakes present without the override to its base."""
    own = documents[0]
    stem = own.path.stem if own.path.parent == resources.lines_dir() else None
    data, found = _merge(documents)
    if not any(path == ("name",) for path, _, _ in found):
        found += line_checks.check_name(own.raw, stem, resources.line_names())
    if data is not None and not found:
        return data
    inherited = set(_merge(documents[1:])[1]) if overriding else set()
    problems = []
    for item in dict.fromkeys(found):
        origin = documents[1:] if item in inherited else documents[:1] if overriding else documents
        problems.append(_locate(origin, *item))
    title = f"{len(problems)} mistake(s) in the line file {documents[0].path}"
    raise FileProblems(title, problems, hint="docs/lines.md describes every key")


def _merge(documents: Sequence[_Document]) -> tuple[LineData | None, list[Found]]:
    """Merge the documents, the first on top; return the data and every mistake."""
    raw: dict[str, object] = {}
    for document in reversed(documents):
        raw = _merged(document.raw, raw)
    raw.pop("extends", None)
    try:
        data = LineData.model_validate(raw)
    except ValidationError as error:
        items = error.errors(include_url=False)
        found = [line_checks.explain(raw, item) for item in items]
        whole = line_checks.with_placeholders(raw, items)
        with contextlib.suppress(ValidationError):
            found += [] if whole is None else line_checks.cross_checks(LineData.model_validate(whole))
        return None, found
    return data, list(line_checks.cross_checks(data))


def _locate(documents: Sequence[_Document], path: Sequence[str | int], what: str, allowed: str) -> Problem:
    """Return the problem in the document with most of `path`; the first of equals."""
    document = max(documents, key=lambda d: len(existing(d.raw, path)))
    return Problem(str(document.path), document.line(existing(document.raw, path)), what, allowed)
