"""Check a line file, in this project's terms: its shape by the typed model, then its keys against each other.

Gives places in the document, not lines of the file: `pipeline.config.line_loader` knows the files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic_core import ErrorDetails

from pipeline.config.line_model import (
    DebianSource,
    FileSource,
    Line,
    LineData,
    ModuleSet,
    Role,
    RoleName,
    SrpmSource,
    ToaReader,
)
from pipeline.config.line_values import Model
from pipeline.core import neutral, resources
from pipeline.core.suggestion import did_you_mean

Toml = Mapping[str, Any]  # a table, as tomllib returns it
Found = tuple[tuple[str | int, ...], str, str]  # where in the document, what is wrong, what is allowed
_LONGEST = 60  # characters of a value in a message
_EXPECTED: Mapping[str, str] = {  # by pydantic's type of error
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "date_type": "a date such as 2024-01-31",
    "tuple_type": "an array",
    "dict_type": "a table",
    "mapping_type": "a table",
    "model_type": "a table",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number from {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number up to {le}",
}
# Keys whose values are held against no other key, each with one that is valid.
_UNREAD: Mapping[str, object] = {
    **dict.fromkeys(("title", "file", "path", "nevra", "archive"), "x"),
    **dict.fromkeys(("schema", "size", "entries"), 1),
    **dict.fromkeys(("git-tree", "fingerprint"), "0" * 40),
    "sha256": "0" * 64,
    "urls": [],
    "contains": ["x"],
}
# Tables whose key `kind` decides which other keys they have, by the table's name.
_KINDS: Mapping[str, Mapping[str, type[Model]]] = {
    "sources": {"file": FileSource, "srpm": SrpmSource, "debian": DebianSource},
    "packages": {"module-set": ModuleSet, "toa-reader": ToaReader},
}


def existing(raw: Any, path: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the longest existing beginning of `path`, without parts that are no keys, such as a union's tag."""
    found: list[str | int] = []
    here: Any = raw
    for part in path:
        keys: Any = here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        if part in keys:
            here = here[part]
            found.append(part)
    return tuple(found)


def explain(raw: Toml, item: ErrorDetails) -> Found:
    """Convert pydantic's error into place, problem and allowed values."""
    loc = tuple(str(part) if isinstance(part, RoleName) else part for part in item["loc"])
    kind, context = str(item["type"]), item.get("ctx") or {}
    in_key = loc[-1:] == ("[key]",) and kind != "extra_forbidden"  # pydantic's mark of a mistake in a key itself
    loc = loc[:-1] if in_key else loc
    allowed = ", ".join(_keys_at(loc[:-1])) if kind == "extra_forbidden" else ""
    kinds = _KINDS.get(str(loc[0]), {}) if loc else {}
    if loc[2:3] and loc[2] in kinds:
        loc = (*loc[:2], *loc[3:])  # the kind, which pydantic puts into the place; `file` is a key too
    dotted = ".".join(str(part) for part in existing(raw, loc))
    if kind == "extra_forbidden":
        meant = did_you_mean(str(loc[-1]), allowed.split(", "))
        return loc, f"unknown key {loc[-1]!r} in {dotted.rpartition('.')[0] or 'the file'}{meant}", allowed
    if kind == "missing":
        return loc, f"{dotted or 'the file'} lacks the key {loc[-1]!r}", ""
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return (*loc, "kind"), f"{dotted}: the kind of a {str(loc[0])[:-1]} is missing or unknown", ", ".join(kinds)
    allowed = str(context.get("allowed") or context.get("expected") or "")
    value = loc[-1] if in_key else _value(raw, loc, item["input"])
    return loc, f"{dotted}: {_message(kind, str(item['msg']), context, value)}", allowed


def _message(kind: str, message: str, context: Mapping[str, object], value: object) -> str:
    """Return pydantic's message in the words of TOML, with the value where the message has none."""
    expected = _EXPECTED.get(kind, message.removeprefix("Input should be "))
    if expected == message:  # of our own, or about a length
        return message
    return f"expected {expected.format(**context)}, got {_shown(value)}"


def _value(raw: Any, path: Sequence[str | int], otherwise: object) -> object:
    """Return what the document has at `path`, before any validator changed it."""
    if existing(raw, path) != tuple(path):
        return otherwise
    for part in path:
        raw = raw[part]
    return raw


def _shown(value: object) -> str:
    """Return a value as TOML writes it; an array, a table or a long text in short."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def with_placeholders(raw: Toml, items: Sequence[ErrorDetails]) -> Toml | None:
    """Return the document with valid values in wrong places that no cross check reads; None where one does."""
    whole: Any = raw
    for item in items:
        path = explain(raw, item)[0]
        known = path[-1:] and path[-1] in _UNREAD and existing(raw, path) == path
        if item["type"] in ("extra_forbidden", "missing") or not known:
            return None
        whole = _with(whole, path, _UNREAD[str(path[-1])])
    return dict(whole)


def _with(raw: Any, path: Sequence[str | int], value: object) -> Any:
    """Return the document with `value` at `path`; what is beside it is not copied."""
    if not path:
        return value
    changed = copy.copy(raw)
    changed[path[0]] = _with(raw[path[0]], path[1:], value)
    return changed


def _keys_at(loc: Sequence[str | int]) -> list[str]:
    """Return the allowed keys of the table at pydantic's place `loc`."""
    here: type[Model] = LineData
    names = [part for part in loc if isinstance(part, str)]
    if names[2:] and names[0] in _KINDS:
        here, names = _KINDS[names[0]].get(names[2], LineData), names[3:]
    for name in names:
        field = next((field for field in here.model_fields.values() if field.alias == name), None)
        here = here if field is None else _table_in(field.annotation) or here  # None: the name of one table of many
    top = [] if loc else ["extends"]
    return sorted([*top, *(str(field.alias) for field in here.model_fields.values())])


def _table_in(annotation: Any) -> type[Model] | None:
    """Return the model inside `tuple[Model, ...]`, `Model | None` or a table of models."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _table_in(inner))), None)


def option(line: Line, before: str = "") -> str:
    """Return the line's name for a command line, after `before`, or --line-file for a file outside the project."""
    if line.files[0].parent == resources.lines_dir():
        return f"{before} {line.name}".lstrip()
    return neutral.command(["--line-file", line.files[0]])


def check_name(raw: Toml, stem: str | None, known: Sequence[str]) -> list[Found]:
    """Check that the name is the file's `stem` in the project, and none of `known` elsewhere."""
    name = raw.get("name")
    if stem is None and name in known:
        what = f"the name {name} is a line's of the project, whose place in repository and steps it would take"
        return [(("name",), what, f"a name of its own, such as {name}-house")]
    if stem not in (None, name):
        return [(("name",), f"the name {name!r} is not the file's", str(stem))]
    return []


def cross_checks(data: LineData) -> Iterator[Found]:
    """Yield contradictions between keys: unknown names, and roles without a rule."""
    checks: tuple[Callable[[LineData], Iterator[Found]], ...] = (
        *(_check_build, _check_keys, _check_roles, _check_packages, _check_patches, _check_tools, _check_lab),
    )
    for check in checks:
        yield from check(data)


def _check_build(data: LineData) -> Iterator[Found]:
    build = data.build
    if build is None:
        return
    known = resources.image_names()
    for index, image in enumerate(build.images):
        if image not in known:
            yield ("build", "images", index), f"no builder image {image!r}", ", ".join(known)
    for name, source in data.sources.items():
        if isinstance(source, DebianSource) and source.image not in (None, *build.images):
            where = ("sources", name, "image")
            yield where, f"the line is not built in the image {source.image!r}", ", ".join(build.images)
    if not build.takes(data.kernel.partition("-")[0]):
        what = f"the kernel {data.kernel} is not of the series {build.kernel_series}"
        yield ("kernel",), what, f"{build.kernel_series}, or {build.kernel_series}.N"


def _check_keys(data: LineData) -> Iterator[Found]:
    known = ", ".join(data.keys) or "none; add a [keys.NAME] table"
    named: list[tuple[tuple[str | int, ...], str]] = []
    for name, source in data.sources.items():
        where = ("sources", name)
        if isinstance(source, SrpmSource):
            named += [((*where, "signers", index), key) for index, key in enumerate(source.signers)]
            named += [((*where, "spec", "known", key), key) for key in source.spec.known]
        if isinstance(source, DebianSource) and data.debian is None:
            yield where, "Debian sources need to know whose index to believe", "a [debian] table"
        if source.kind != "file" and (source.sha256 is None) != (source.size is None):
            yield where, "sha256 and size belong together", "both or neither"
    named += [
        (("debian", "keyring", index), key) for index, key in enumerate(data.debian.keyring if data.debian else ())
    ]
    for path, key in named:
        if key not in data.keys:
            yield path, f"no key {key!r}", known


def _check_roles(data: LineData) -> Iterator[Found]:
    if data.kernel_source not in data.sources and (data.kernel_source or data.patches):
        which = "the key kernel-source names no source" if data.kernel_source else "nothing says which tree is patched"
        yield ("kernel-source",), which, f"kernel-source = one of {', '.join(data.sources)}"
    if RoleName.STOCK not in data.roles:
        yield ("roles",), "the role 'stock' is missing: it is the control of every test of roles", "[roles.stock]"
    for name, role in data.roles.items():
        unpatched = name is RoleName.STOCK or (role.kernel is not None and not data.patches_modules(role))
        if unpatched != (not role.series):
            allowed = "none: nothing of the role is patched" if unpatched else "one patch or more"
            yield ("roles", name.value, "series"), f"the series of {name.value} is wrong", allowed
        yield from _check_role_kernel(data, name, role)
        for index, patch in enumerate(role.series):
            if patch not in data.patches:
                yield ("roles", name.value, "series", index), f"no patch {patch!r}", ", ".join(data.patches) or "none"
            if patch in role.series[:index]:
                where = ("roles", name.value, "series", index)
                yield where, f"the patch {patch!r} is in the series twice", "each patch once"
        if role.series and name not in data.rules:
            yield ("roles", name.value), f"nothing proves the role {name.value}", f"a [rules.{name.value}] table"


def _check_role_kernel(data: LineData, name: RoleName, role: Role) -> Iterator[Found]:
    """Yield contradictions of a role that has packages beside the stock kernel in place of a kernel of its own."""
    where = ("roles", name.value)
    if role.kernel is None and role.packages:
        yield (*where, "packages"), f"the role {name.value} has packages and a kernel of its own", 'kernel = "stock"'
    if role.kernel is not None:
        if name is RoleName.STOCK:
            yield (*where, "kernel"), "the stock kernel cannot be that of another role", "no such key in stock"
        elif not role.packages:
            yield where, f"the role {name.value} is nothing but stock", f"packages = one of {', '.join(data.packages)}"
        for key in ("buildid", "config", "symbols"):
            if getattr(role, key):
                yield (*where, key), f"{key} is a kernel's, and {name.value} has none of its own", "none"
    for index, package in enumerate(role.packages):
        if package not in data.packages:
            known = ", ".join(data.packages) or "none; add a [packages.NAME] table"
            yield (*where, "packages", index), f"no package {package!r}", known


def _check_packages(data: LineData) -> Iterator[Found]:
    used = [package for role in data.roles.values() for package in role.packages]
    for name, package in data.packages.items():
        if name not in used:
            yield ("packages", name), f"no role has the package {name}", 'packages of a role with kernel = "stock"'
        if isinstance(package, ToaReader):
            yield from _check_option(data, name, package)
        else:
            yield from _check_modules(data, name, package, used.count(name))


def _check_option(data: LineData, name: str, reader: ToaReader) -> Iterator[Found]:
    """Yield the difference between the reader's option number and the director's: clients' addresses would be lost."""
    rule = data.rules.get(RoleName.DIRECTOR)
    if rule is not None and rule.option_number != reader.option_number:
        what = f"{name} reads the TCP option {reader.option_number}, the director writes {rule.option_number}"
        yield ("packages", name, "option-number"), what, f"{rule.option_number} in both"


def _check_modules(data: LineData, name: str, package: ModuleSet, roles: int) -> Iterator[Found]:
    where = ("packages", name)
    if package.source not in data.sources:
        what = f"no source {package.source!r}{did_you_mean(package.source, data.sources)}"
        yield (*where, "source"), what, ", ".join(data.sources)
    if bool(package.paths) != (package.kbuild is not None):
        yield where, "paths of a kernel's source and the makefile at their top belong together", "paths and kbuild"
    if package.paths and package.source != data.kernel_source:
        yield (*where, "source"), "paths are of the kernel's source", str(data.kernel_source)
    if package.paths and roles > 1:
        yield where, f"several roles have {name}, which is patched by the series of one", "one role"
    for module in package.contains.keys() - {*package.modules}:
        yield (*where, "contains", module), f"{name} has no module {module}", ", ".join(package.modules)


def _check_patches(data: LineData) -> Iterator[Found]:
    for name, patch in data.patches.items():
        where = ("patches", name)
        if (patch.source is None) != (patch.member is None) or (patch.source is None) == (patch.file is None):
            yield where, f"patch {name} needs one origin", "source and member, or file"
        elif patch.source is not None and patch.source not in data.sources:
            what = f"no source {patch.source!r}{did_you_mean(patch.source, data.sources)}"
            yield (*where, "source"), what, ", ".join(data.sources)


def _check_tools(data: LineData) -> Iterator[Found]:
    for name, series in data.tools.items():
        where = ("tools", name)
        if name not in data.sources:
            yield where, f"no source {name!r}{did_you_mean(name, data.sources)}", ", ".join(data.sources)
        files = [patch.file for patch in series.patches]
        for index, file in enumerate(files):
            if file in files[:index]:
                yield (*where, "patches", index), f"the patch {file} is in the series twice", "each patch once"
        if files and not series.must_contain:
            yield where, f"nothing proves the series of {name}", "must-contain, with a text that it adds"
        if files and not series.effect:
            yield where, f"nothing says what the series of {name} leaves", f"a [tools.{name}.effect] table"


def _check_lab(data: LineData) -> Iterator[Found]:
    for name, play in data.lab.items():
        chosen = {part: role for part in ("director", "server", "client") if (role := getattr(play, part))}
        if play.left_out and chosen:
            yield ("lab", name), f"the scenario {name} is left out and has kernels", "left-out, or kernels"
        for part, role in chosen.items():
            if role not in data.roles:
                yield ("lab", name, part), f"no role {role.value!r}", ", ".join(data.roles)
