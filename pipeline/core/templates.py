"""Render templates: RPM spec files and the files of builder images.

Templates are Jinja2 files below the project's `specs/` and `containers/`. A variable that is missing
is an error, never an empty string. Nor can a variable be more than a value where it stands: outside of
pages it holds no character that begins a line or cannot be seen, and in a spec file no `%`, which begins a
macro that rpmbuild runs. What needs one of those is our own text, and the template says so: `| safe`.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pipeline.core import neutral, resources
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from jinja2 import Environment


def render(name: str, /, **variables: Any) -> str:
    """Render the template `name`, such as `specs/lts61/kernel.spec.j2`, with `variables`.

    Raises `PipelineError`, with the template's file and line where it has one, when it cannot be rendered.
    """
    from jinja2 import TemplateError, TemplateNotFound

    try:
        return _environment(_kind(name)).get_template(name).render(variables)
    except TemplateNotFound:
        raise PipelineError(f"template {name}: not found", where=str(resources.data_root())) from None
    except TemplateError as error:
        what = f"the template {name} cannot be rendered: {error.message}"
        raise PipelineError(what, where=_place(name, error)) from None


def source(name: str) -> str:
    """Return the template's source, for digests. Raises `PipelineError` when there is none."""
    from jinja2 import TemplateNotFound

    environment = _environment(_kind(name))
    assert environment.loader is not None
    try:
        return environment.loader.get_source(environment, name)[0]
    except TemplateNotFound:
        raise PipelineError(f"template {name}: not found", where=str(resources.data_root())) from None


def _kind(name: str) -> str:
    """Return the kind of file a template makes: `html`, `spec`, or another file of lines."""
    made = name.removesuffix(".j2").rpartition(".")[2]
    return made if made in ("html", "spec") else "lines"


@cache
def _environment(kind: str) -> Environment:
    from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined

    loaders = {
        "specs": FileSystemLoader(resources.specs_dir()),
        "containers": FileSystemLoader(resources.containers_dir()),
    }
    return Environment(
        loader=PrefixLoader(loaders),
        undefined=StrictUndefined,
        finalize=_given if kind == "html" else partial(_value, kind),
        autoescape=kind == "html",
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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


def _place(name: str, error: Exception) -> str:
    """Return file and line in the template: a syntax error has its own, others the last one in the traceback."""
    line = getattr(error, "lineno", None)
    step = error.__traceback__
    while step is not None and line is None:
        if step.tb_next is None or step.tb_frame.f_code.co_filename.endswith(name):
            line = step.tb_lineno if step.tb_frame.f_code.co_filename.endswith(name) else None
        step = step.tb_next
    return f"{resources.data_root() / name}:{line}" if line else str(resources.data_root() / name)
