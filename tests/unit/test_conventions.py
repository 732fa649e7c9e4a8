"""The rules of the house, held against the whole tree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from invoke.collection import Collection

from pipeline import __version__
from pipeline.cli import docs
from pipeline.config.settings import ROWS
from pipeline.core import resources
from pipeline.core.process import clean_environment, run
from pipeline.errors import ExitCode

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))
PYTHON = sorted([ROOT / "tasks.py", *MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LONGEST_FUNCTION, LONGEST_FILE = 60, 500  # lines

# From the bottom up: a module imports from packages of rows above its own, and from its own package.
ORDER = (
    ("errors",),
    ("core",),
    ("formats",),
    ("config",),
    ("host",),
    ("sources",),
    ("sandbox", "patching"),
    ("packaging",),
    ("inspect",),
    ("recipes",),
    ("publish",),
    ("lab",),
    ("audit",),
    ("ci",),
    ("nights",),
    ("commands",),
    ("tasks",),
    ("cli",),
    ("__main__",),
)
PACKAGES = {name for names in ORDER for name in names} - {"errors", "tasks", "__main__"}


def tool(*words: str) -> None:
    """Runs one of the linters over the tree; what it finds is the failure's text."""
    result = run([sys.executable, "-m", *words], cwd=ROOT, env=clean_environment(), accept=range(256))
    assert result.status == 0, result.text + result.error_text


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--quiet", "--output-format=concise", ".")


def test_ruff_would_format_nothing_otherwise() -> None:
    tool("ruff", "format", "--check", "--quiet", ".")


def test_mypy_strict_finds_nothing() -> None:
    tool("mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache"))


# --- Code ----------------------------------------------------------------------------------------------


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def told(file: Path, node: ast.AST, what: str) -> str:
    return f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {what}"


def module_of(file: Path) -> str:
    """The dotted name of a file's module; a package's is its `__init__`'s."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


CODE = {module_of(file): file for file in [ROOT / "tasks.py", *MODULES]}


def place(module: str) -> str:
    """The name in `ORDER` that a module belongs to."""
    return [*module.split("."), ""][1] if module.startswith("pipeline") else module


def rank(module: str) -> int:
    """The row of `ORDER` that a module belongs to; below all of them for the package itself, which imports nothing."""
    return next((number for number, names in enumerate(ORDER) if place(module) in names), -1)


def imported(module: str) -> Iterator[tuple[ast.AST, str]]:
    """The modules of the project that one imports: at its top, inside functions and for types alone."""
    for node in ast.walk(tree(CODE[module])):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, told(CODE[module], node, "a relative import")
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in CODE:
                name = name.rpartition(".")[0]
            if name:
                yield node, name


def test_the_root_of_the_package_holds_three_files_and_the_packages_of_the_order() -> None:
    # What is compiled stays in directories that another commit had.
    found = {file.relative_to(ROOT / "pipeline").parts[0] for file in MODULES}
    assert found == {"__init__.py", "__main__.py", "errors.py"} | PACKAGES


def test_the_map_for_contributors_is_the_packages_in_their_order_with_what_they_say_of_themselves() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| package of `pipeline/` |")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    own = [name for names in ORDER for name in names if name in PACKAGES | {"errors"}]
    assert rows == [(name, (ast.get_docstring(tree(CODE[f"pipeline.{name}"])) or "").splitlines()[0]) for name in own]


def test_tests_are_laid_out_as_the_packages_are() -> None:
    for kind in ("unit", "component"):
        for file in (ROOT / "tests" / kind).rglob("*.py"):
            inside = file.parent.relative_to(ROOT / "tests" / kind)
            assert (ROOT / "pipeline" / inside / "__init__.py").is_file(), f"{file} is of no package in pipeline/"


def test_imports_point_up_the_order_only() -> None:
    wrong = [
        told(CODE[module], node, f"{module} must not import {name}")
        for module in CODE
        for node, name in imported(module)
        if place(name) != place(module) and rank(name) >= rank(module)
    ]
    assert wrong == []


def test_no_import_leads_back_to_its_module() -> None:
    """Not even through functions or types: what knows each other is one thing, or a third is missing."""
    graph = {module: {name for _, name in imported(module)} - {module} for module in CODE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for file in MODULES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long.append(told(file, node, f"{node.name} has {length} lines"))
    assert long == []


def test_no_file_is_too_long_to_know() -> None:
    lengths = {file.relative_to(ROOT): file.read_text().count("\n") for file in PYTHON}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def missing(text: str) -> list[str]:
    """What the code in a text imports from the project that is not there: modules, and names at a module's top."""
    found = re.findall(r"from (pipeline[\w.]*) import (\w+(?:, *\w+)*)", text)
    return [
        f"{module}.{name}"
        for module, names in found
        for name in re.split(", *", names)
        if f"{module}.{name}" not in CODE
        and not (
            module in CODE
            and re.search(rf"^(def |class |from .* import .*)?\b{name}\b", CODE[module].read_text(), re.MULTILINE)
        )
    ]


def test_code_in_texts_of_tests_imports_what_is_there() -> None:
    """No linter reads the code that a test gives to another process."""
    wrong = [
        told(file, node, name)
        for file in PYTHON
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in missing(node.value)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "names"), [("pipeline.core", "fs, room"), ("pipeline.room", "fs"), ("pipeline.core.fs", "nothing")]
)
def test_an_import_of_what_is_not_there_would_be_seen(module: str, names: str) -> None:
    assert len(missing(f"import sys\nfrom {module} import {names}\n")) == 1


def test_no_shell_is_given_text_and_no_error_is_swallowed_unseen() -> None:
    wrong = []
    for file in PYTHON:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(told(file, node, "a bare except"))
            if isinstance(node, ast.keyword) and node.arg == "shell":
                wrong.append(told(file, node, "shell="))
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.system", "os.popen"):
                wrong.append(told(file, node, ast.unparse(node)))
    assert wrong == []


def test_nothing_is_validated_by_a_statement_that_python_o_leaves_out() -> None:
    nodes = [(file, node) for file in [*MODULES, ROOT / "tasks.py"] for node in ast.walk(tree(file))]
    assert [told(file, node, "assert") for file, node in nodes if isinstance(node, ast.Assert)] == []


def test_documents_are_read_in_one_place_only() -> None:
    """Where their types are held against what they say; a manifest is what documents are sealed with.

    Docker's own files are not ours: one value is looked for in them, whatever else they hold.
    """
    readers = [
        ROOT / "pipeline" / name for name in ("core/documents.py", "core/manifest.py", "host/engine_addresses.py")
    ]
    wrong = []
    for file in [*MODULES, ROOT / "tasks.py"]:
        names = [node for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute)]
        found = [node for node in names if ast.unparse(node) in ("json.load", "json.loads")]
        wrong += [told(file, node, "documents.parse") for node in found if file not in readers]
    assert wrong == []


def test_programs_are_run_in_one_place_only() -> None:
    wrong = []
    for file in [*MODULES, ROOT / "tasks.py"]:
        for node in ast.walk(tree(file)):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            starts = re.fullmatch(r"subprocess\.(run|Popen|call|check_call|check_output)|os\.(exec|spawn)\w+", called)
            if starts and file.name != "process.py":
                wrong.append(told(file, node, called))
    assert wrong == []


# Who writes to a terminal past the console: a shell is the person's own, and so are its words; the switch's only
# one is ours; the reference prints pages of our own. `neutral.stream` stands behind the rest.
TERMINAL_ITSELF = {
    ("pipeline/core/console.py", "sys.stdout"),
    ("pipeline/core/console.py", "sys.stderr"),
    ("pipeline/cli/app.py", "sys.stdout"),
    ("pipeline/cli/app.py", "sys.exit"),  # with a number
    ("pipeline/commands/lab.py", "sys.stdout"),  # --keep: a shell in a guest
    ("pipeline/sandbox/terminal.py", "os.write(1)"),
    ("pipeline/lab/vm/switch.py", "os.write(1)"),
    ("pipeline/lab/vm/switch.py", "sys.exit"),
    ("pipeline/cli/docs.py", "print"),
    ("pipeline/cli/docs.py", "sys.stderr"),
    ("pipeline/cli/docs.py", "sys.exit"),
    ("pipeline/host/programs.py", "sys.exit"),
    ("pipeline/commands/test.py", "process.run_attached"),  # pytest
}
WRITERS = re.compile(
    r"print|pprint|breakpoint|sys\.(__)?std(out|err)(__)?|sys\.exit|process\.run_attached|traceback\.print\w*|warnings\.warn"
    r"|logging(\.\w+)*"
)


def written(node: ast.AST) -> str:
    """What in this node reaches a terminal by itself; empty for everything else."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.write" and isinstance(node.args[0], ast.Constant):
        return f"os.write({node.args[0].value!r})"
    name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
    return name if WRITERS.fullmatch(name) else ""


def test_nothing_reaches_a_terminal_past_the_console() -> None:
    found = {
        (str(file.relative_to(ROOT)), name)
        for file in [*MODULES, ROOT / "tasks.py"]
        for node in ast.walk(tree(file))
        if (name := written(node))
    }
    assert found == TERMINAL_ITSELF


@pytest.mark.parametrize(
    "code", ["print(x)", "say = print", "sys.stderr.write(x)", "os.write(2, x)", "logging.getLogger()", "sys.exit(x)"]
)
def test_such_a_writer_would_be_seen(code: str) -> None:
    assert any(written(node) for node in ast.walk(ast.parse(code)))


def test_commands_that_a_person_copies_are_made_neutral() -> None:
    """`shlex` quotes what acts on a terminal as it is; it is for what a shell reads and nobody sees."""
    allowed = {"pipeline/core/neutral.py": 1, "pipeline/packaging/job.py": 1, "pipeline/host/programs.py": 1}
    found = {
        str(file.relative_to(ROOT)): count
        for file in [*MODULES, ROOT / "tasks.py"]
        if (count := len(re.findall(r"shlex\.(?:quote|join)\(", file.read_text())))
    }
    assert found == allowed


def test_every_module_says_what_it_is_for() -> None:
    assert [str(file) for file in PYTHON if file.read_text().strip() and not ast.get_docstring(tree(file))] == []


def test_every_public_function_and_class_of_the_pipeline_has_a_docstring() -> None:
    wrong = []
    for file in MODULES:
        for node in tree(file).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):  # type: ignore[arg-type]
                wrong.append(told(file, node, "no docstring"))
    assert wrong == []


def test_nothing_outside_of_recipes_knows_a_line_by_name() -> None:
    """A line is data: what differs between lines stands in their files."""
    names = "|".join(map(re.escape, resources.line_names()))
    allowed = (ROOT / "pipeline" / "recipes", ROOT / "pipeline" / "publish" / "el6_compat.py")
    wrong = [
        f"{file.relative_to(ROOT)}:{number}: {row.strip()}"
        for file in MODULES
        if not any(file.is_relative_to(place) for place in allowed)
        for number, row in enumerate(file.read_text().splitlines(), 1)
        if re.search(rf"\b(?:{names})\b", row)
    ]
    assert wrong == []


@pytest.mark.parametrize("mark", ["skip", "skipif", "xfail"])
def test_no_test_is_skipped_or_expected_to_fail(mark: str) -> None:
    pattern = re.compile(rf"(mark\.|pytest\.){mark}\b")
    assert [str(file) for file in PYTHON if pattern.search(file.read_text())] == []


# --- Documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(docs.PAGES))
def test_a_generated_page_is_what_its_generator_prints(name: str) -> None:
    page = (ROOT / "docs" / docs.FILES[name]).read_text()
    assert page == docs.PAGES[name](), f"python -m pipeline.cli.docs {name} > docs/{docs.FILES[name]}"


def test_the_generator_prints_a_page_and_knows_no_other() -> None:
    env = clean_environment(PYTHONPATH=str(ROOT))
    argv = [sys.executable, "-m", "pipeline.cli.docs"]
    assert run(argv, env=env).text == docs.commands()
    assert run([*argv, "exit-codes"], env=env).text == docs.exit_codes()
    assert run([*argv, "nonsense"], env=env, accept=[2]).out == b""


def test_every_verb_option_setting_and_exit_code_is_on_its_page() -> None:
    import tasks

    page = docs.commands()
    for name, task in Collection.from_module(tasks).tasks.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert f"    ./inv {task.verb.usage}\n" in section
        for parameter in task.verb.parameters:
            assert f"`--{parameter}" in section, f"{name} {parameter}"
    for row in ROWS:
        assert f"| `{row.option}" in page, row.name
        assert all(f"`{text}`" in page for text in (row.name, row.variable)), row.name
    listed = re.findall(r"^\| (\d+) \| (\w+) \|", docs.exit_codes(), re.MULTILINE)
    assert listed == [(str(code.value), code.name) for code in ExitCode]


def blocks(text: str) -> list[list[str]]:
    """The code blocks of a page."""
    return [found.strip().splitlines() for found in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def test_the_readme_begins_with_exactly_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert blocks(text)[:2] == [["./inv build-all lts61"], ["./inv test"]]
    before = text[: text.index("```")].strip().splitlines()
    assert before[0].startswith("# ")
    assert len([line for line in before[1:] if line]) <= 1
    between = text.split("```")[2]
    assert between.strip() == ""


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            there = page if not name else page.parent / name
            if not there.exists() or (anchor and anchor not in anchors(there)):
                wrong.append(target)
    assert wrong == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in seen and page.is_file():
            seen.add(page)
            targets = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text())
            todo += [(page.parent / target).resolve() for target in targets if ":" not in target]
    assert set(PAGES) <= seen


def test_every_page_the_program_names_is_there() -> None:
    named = {name for file in MODULES for name in re.findall(r"docs/[\w-]+\.md", file.read_text())}
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_change_log_names_the_packages_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text
    assert re.search(rf"^## \[{re.escape(__version__)}\]", text, re.MULTILINE)


def test_the_licences_are_as_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert declared == "Apache-2.0"
    assert re.search(r"Apache License\s+Version 2\.0", (ROOT / "LICENSE").read_text())
    assert re.search(r"GNU GENERAL PUBLIC LICENSE\s+Version 2", (ROOT / "patches" / "LICENSE").read_text())


def test_nothing_of_upstreams_patches_is_kept_here() -> None:
    kept = [path for path in (ROOT / "patches").rglob("*") if path.is_file() and path.suffix not in (".toml", ".md")]
    own = {path for path in kept if "el6" not in path.relative_to(ROOT).parts}
    ours = {path for path in own if re.fullmatch(r"[0-9]{4}-[\w.-]+\.patch", path.name)}
    assert {path.name for path in kept if path not in ours} <= {"LICENSE"}
    assert all(path.read_text().startswith(f"From {'0' * 40} ") for path in ours), "as git format-patch writes them"


def test_the_locks_pin_every_dependency_by_digest() -> None:
    for name in ("run", "test"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        pinned = re.findall(r"^([\w.-]+)==[^\n]+ \\\n    --hash=sha256:", text, re.MULTILINE)
        listed = re.findall(r"^([\w.-]+)", text, re.MULTILINE)
        assert pinned == listed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=]", row)[0] for row in project["dependencies"]}
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "run.txt").read_text(), re.MULTILINE))
    assert {name.lower() for name in wanted} <= {name.lower() for name in locked}
