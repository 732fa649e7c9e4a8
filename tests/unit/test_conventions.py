"""The rules of the house, held against the whole tree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.collection import Collection

from pipeline import __version__, reference
from pipeline.cli import arguments
from pipeline.errors import ExitCode
from pipeline.process import clean_environment, run
from pipeline.settings import ROWS

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))
PYTHON = sorted([ROOT / "tasks.py", *MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LONGEST_FUNCTION, LONGEST_FILE = 60, 500  # lines

# From the bottom up: a module imports from layers below its own, and from its own name. A row's names do not
# know each other. `linechecks` and `lines` are one module in two files.
LAYERS = (
    ("neutral",),
    ("__init__", "errors", "paths", "trace", "trees"),
    ("safeopen", "rlimits"),
    ("process", "files", "locks", "console", "tomlpos"),
    ("temporary", "settings", "documents"),
    ("session", "lines", "room", "artifacts", "manifest"),
    ("sources", "host"),
    ("patching", "sandbox"),
    ("build",),
    ("publish", "lab", "audit"),
    ("builders", "showing", "linenames", "testing", "cli", "summary", "leftovers", "inventory", "progress"),
    ("mainjob", "status", "verification", "imaging", "cleaning"),
    ("labjob",),
    ("tasks",),
    ("__main__", "reference"),
)
ONE_MODULE = {"linechecks": "lines"}


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


def layer(name: str) -> int:
    name = ONE_MODULE.get(name, name)
    return next(number for number, names in enumerate(LAYERS) if name in names)


def unit_of(file: Path) -> str:
    """The name in the table of layers that a file belongs to."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "tasks" else parts[1]


def imported(file: Path) -> Iterator[tuple[ast.AST, str]]:
    """The names in the table of layers that a file imports, at its top or inside functions."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, told(file, node, "a relative import")
            module = node.module or ""
            full = [f"{module}.{alias.name}" for alias in node.names] if module == "pipeline" else [module]
        else:
            continue
        for name in full:
            parts = name.split(".")
            if parts[0] == "tasks":
                yield node, "tasks"
            if parts[0] == "pipeline" and not parts[1].startswith("__version"):
                yield node, parts[1]


def test_every_module_has_its_layer() -> None:
    known = {name for names in LAYERS for name in names} | set(ONE_MODULE)
    assert {unit_of(file) for file in MODULES} <= known


def test_imports_point_down_only() -> None:
    wrong = []
    for file in [ROOT / "tasks.py", *MODULES]:
        own = unit_of(file)
        for node, name in imported(file):
            same = ONE_MODULE.get(own, own) == ONE_MODULE.get(name, name)
            # The command line's module begins with the tasks and is what they are made of.
            if not same and layer(name) >= layer(own) and (own, name) != ("cli", "tasks"):
                wrong.append(told(file, node, f"{own} must not know {name}"))
    assert wrong == []


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
    lengths = {file.relative_to(ROOT): file.read_text().count("\n") for file in MODULES}
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


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
    ("pipeline/console.py", "print"),
    ("pipeline/console.py", "sys.stdout"),
    ("pipeline/console.py", "sys.stderr"),
    ("pipeline/cli.py", "sys.stdout"),
    ("pipeline/cli.py", "sys.exit"),  # with a number
    ("pipeline/labjob.py", "sys.stdout"),  # --keep: a shell in a guest
    ("pipeline/sandbox/attached.py", "os.write(1)"),
    ("pipeline/lab/switch.py", "os.write(1)"),
    ("pipeline/lab/switch.py", "sys.exit"),
    ("pipeline/reference.py", "print"),
    ("pipeline/reference.py", "sys.stderr"),
    ("pipeline/reference.py", "sys.exit"),
    ("pipeline/host/programs.py", "sys.exit"),
    ("pipeline/testing.py", "process.show"),  # pytest
}
WRITERS = re.compile(
    r"print|pprint|breakpoint|sys\.(__)?std(out|err)(__)?|sys\.exit|process\.show|traceback\.print\w*|warnings\.warn"
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
    allowed = {"pipeline/neutral.py": 1, "pipeline/build/sandboxed.py": 1, "pipeline/host/programs.py": 1}
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


@pytest.mark.parametrize("mark", ["skip", "skipif", "xfail"])
def test_no_test_is_skipped_or_expected_to_fail(mark: str) -> None:
    pattern = re.compile(rf"(mark\.|pytest\.){mark}\b")
    assert [str(file) for file in PYTHON if pattern.search(file.read_text())] == []


# --- Documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(reference.PAGES))
def test_a_generated_page_is_what_its_generator_prints(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert page == reference.PAGES[name](), f"python -m pipeline.reference {name} > docs/{name}.md"


def test_the_generator_prints_a_page_and_knows_no_other() -> None:
    env = clean_environment(PYTHONPATH=str(ROOT))
    argv = [sys.executable, "-m", "pipeline.reference"]
    assert run(argv, env=env).text == reference.commands()
    assert run([*argv, "exit-codes"], env=env).text == reference.exit_codes()
    assert run([*argv, "nonsense"], env=env, accept=[2]).out == b""


def test_every_verb_option_setting_and_exit_code_is_on_its_page() -> None:
    import tasks

    page = reference.commands()
    for name, task in Collection.from_module(tasks).tasks.items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for argument in arguments(task):
            assert f"--{argument.name.replace('_', '-')}" in section, f"{name} {argument.name}"
    for row in ROWS:
        assert all(f"`{text}`" in page for text in (row.option, row.name, row.variable)), row.name
    listed = re.findall(r"^\| (\d+) \| (\w+) \|", reference.exit_codes(), re.MULTILINE)
    assert listed == [(str(code.value), code.name) for code in ExitCode]


def blocks(text: str) -> list[list[str]]:
    """The code blocks of a page."""
    return [found.strip().splitlines() for found in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def test_the_readme_begins_with_exactly_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert blocks(text)[:2] == [["./inv build-all --line lts61"], ["./inv test"]]
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
    own = [path.name for path in (ROOT / "patches").rglob("*") if path.is_file()]
    assert {name for name in own if not name.endswith((".toml", ".md"))} <= {"LICENSE"}


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
