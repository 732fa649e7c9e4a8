"""Render templates: RPM spec files, the files of builder images and those of CI services.

Templates are Jinja2 files below the project's `specs/`, `containers/` and `ci/`. A variable that is missing
is an error, never an empty string. Nor can a variable be more than a value where it stands: outside of
pages it holds no character that begins a line or cannot be seen, and in a spec file no `%`, which begins a
macro that rpmbuild runs. Our own text with such characters is marked in the template: `| safe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import fs, neutral, resources
from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from jinja2 import BaseLoader, Environment

_LARGEST = 4 << 20  # bytes of a template from outside the project


@dataclass(frozen=True)
class OwnSpecs:
    """Spec files outside the project: the directory `root/name` stands before that of its name in `specs/`."""

    root: Path
    name: str


def render(name: str, own: OwnSpecs | None = None, /, **variables: Any) -> str:
    """Render the template `name`, such as `specs/debian-tarball/kernel.spec.j2`, with `variables`.

    With `own` it may be one from outside the project: then it is rendered in Jinja's sandbox, in which a template
    reaches nothing but its variables. Raises `PipelineError`, with the template's file and line where it has one,
    when it cannot be rendered; `UsageError` where it may be one of `own`.
    """
    from jinja2 import TemplateError, TemplateNotFound

    failed: type[PipelineError] = PipelineError if own is None else UsageError
    try:
        return _environment(_kind(name), own).get_template(name).render(variables)
    except TemplateNotFound as error:
        raise failed(f"template {error.name}: not found", where=str(resources.data_root())) from None
    except TemplateError as error:
        what = f"the template {name} cannot be rendered: {error.message}"
        raise failed(what, where=_place(name, error, own)) from None
    except Exception as error:
        if own is None:
            raise
        what = f"the template {name} cannot be rendered: {type(error).__name__}: {error}"
        raise failed(what, where=_place(name, error, own)) from None


def source(name: str) -> str:
    """Return the template's source, for digests. Raises `PipelineError` when there is none."""
    from jinja2 import TemplateNotFound

    try:
        return _loader(None).get_source(_environment(_kind(name)), name)[0]
    except TemplateNotFound:
        raise PipelineError(f"template {name}: not found", where=str(resources.data_root())) from None


def _kind(name: str) -> str:
    """Return the kind of file a template makes: `html`, `spec`, or another file of lines."""
    made = name.removesuffix(".j2").rpartition(".")[2]
    return made if made in ("html", "spec") else "lines"


def _loader(own: OwnSpecs | None) -> BaseLoader:
    from jinja2 import ChoiceLoader, FileSystemLoader, FunctionLoader, PrefixLoader

    specs: BaseLoader = FileSystemLoader(resources.specs_dir())
    if own is not None:
        specs = ChoiceLoader([PrefixLoader({own.name: FunctionLoader(_reader(own.root / own.name))}), specs])
    containers, ci = (FileSystemLoader(top) for top in (resources.containers_dir(), resources.ci_dir()))
    return PrefixLoader({"specs": specs, "containers": containers, "ci": ci})


@cache
def _environment(kind: str, own: OwnSpecs | None = None) -> Environment:
    from jinja2 import Environment, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = Environment if own is None else ImmutableSandboxedEnvironment
    return made(
        loader=_loader(own),
        undefined=StrictUndefined,
        finalize=_given if kind == "html" else partial(_value, kind),
        autoescape=kind == "html",
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _reader(directory: Path) -> Callable[[str], tuple[str, str, None] | None]:
    """Make a loader's function that reads regular files of a limited size below a directory."""
    from jinja2 import TemplateNotFound
    from jinja2.loaders import split_template_path

    def read(name: str) -> tuple[str, str, None] | None:
        path = directory.joinpath(*split_template_path(name))
        if not path.is_file():
            return None
        try:
            return fs.read_limited(path, _LARGEST).decode(), str(path), None
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateNotFound(name, f"{path} cannot be read: {error}") from None

    return read


def _given(value: Any) -> Any:
    """Return the value; raise for None, which is a forgotten variable."""
    from jinja2 import UndefinedError

    if value is None:
        raise UndefinedError("a variable is None")
    return value


def _value(kind: str, value: Any) -> Any:
    """Return a value for a file whose lines a program interprets."""
    from jinja2 import UndefinedError
    from markupsafe import Markup

    text = value if isinstance(value, str) else str(_given(value))
    if not isinstance(text, Markup) and (neutral.line(text) != text or (kind == "spec" and "%" in text)):
        raise UndefinedError(f"a variable holds {text!a}, which would be more than a value there")
    return value


def _place(name: str, error: Exception, own: OwnSpecs | None) -> str:
    """Return file and line in the template: a syntax error has its own, others the last one in the traceback."""
    found = resources.data_root() / name
    if own is not None and (outside := own.root / name.removeprefix("specs/")).is_file():
        found = outside
    line = getattr(error, "lineno", None)
    step = error.__traceback__
    while step is not None and line is None:
        if step.tb_next is None or step.tb_frame.f_code.co_filename.endswith(name):
            line = step.tb_lineno if step.tb_frame.f_code.co_filename.endswith(name) else None
        step = step.tb_next
    return f"{found}:{line}" if line else str(found)
