"""The command line as people and programs meet it: words, exit codes, `--json`, pipes, and what it loads at start."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from invoke.collection import Collection

import tasks
from pipeline import __version__, errors
from pipeline.cli.app import Program
from pipeline.commands.task import Outcome, verb
from pipeline.config import line_loader
from pipeline.config.context import RunContext
from pipeline.core import resources
from pipeline.core.decoder import encode
from pipeline.core.process import Result, clean_environment, run
from pipeline.errors import ExitCode, PipelineError
from tests.fixtures.commandline import ROOT

HEAVY = ("docker", "jinja2", "requests", "git", "rich", "pydantic", "unidiff", "tree_sitter", "tree_sitter_toml")
REAL = Collection.from_module(tasks)


def inv(*words: str, cwd: Path = ROOT, **environ: str) -> Result:
    """`./inv` without its launcher."""
    env = clean_environment(PYTHONPATH=str(ROOT), **environ)
    return run([sys.executable, "-P", "-m", "pipeline", *words], env=env, cwd=cwd, accept=range(256))


# --- Which line ----------------------------------------------------------------------------------------

# Each verb that works on one line, with the words it needs besides.
ONE_LINE = {
    "fetch": [], "patches": [], "build-all": [], "build": ["kernel"], "image": [], "shell": ["ipvsadm"], "smoke": [],
    "boot": [], "lab": ["--scenario", "nat"], "mirror": ["export", "there"],
    "cves": ["vulns"], "publish": ["--to", "there"],
}  # fmt: skip
# A line is a word that must be typed, or limits what is looked at.
OTHERWISE = {"pin", "lines", "status", "clean", "logs", "ci", "cluster", "nightly"}


def test_every_verb_that_takes_a_line_is_known_here() -> None:
    taking = {name for name, task in REAL.tasks.items() if "line" in task.verb.parameters}
    assert taking == {*ONE_LINE, *OTHERWISE}


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str | None, Path | None]]:
    """Runs a verb in an empty directory as far as its line: the name and the file it is loaded by."""
    calls: list[tuple[str | None, Path | None]] = []

    def load(name: str | None = None, line_file: Path | None = None) -> None:
        calls.append((name, line_file))
        raise errors.UsageError("far enough", hint="./inv lines")

    def run_verb(*words: str) -> tuple[str | None, Path | None]:
        assert Program(REAL, "0").run(words) == ExitCode.USAGE
        return calls.pop()

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FNAT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(line_loader, "load", load)
    return run_verb


@pytest.mark.parametrize("name", ONE_LINE)
def test_every_verb_takes_the_line_of_one_setting(
    name: str, loaded: Callable[..., tuple[str | None, Path | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (name, *ONE_LINE[name])
    assert loaded(*words) == ("el6", None)
    assert loaded(*words, "--line-file", "house.toml") == (None, Path("house.toml"))
    (tmp_path / "inv.toml").write_text('line = "lts61"\n')
    assert loaded(*words) == ("lts61", None)
    assert loaded(*words, "--line-file", "house.toml") == (None, Path("house.toml"))
    assert loaded(*words, "--line-file", "house.toml", "--line", "mine") == ("mine", Path("house.toml"))
    monkeypatch.setenv("FNAT_LINE", "other")
    assert loaded(*words) == ("other", None)
    assert loaded(*words, "--line", "el6") == ("el6", None)


@pytest.mark.parametrize("name", ONE_LINE)
def test_a_line_that_is_not_there_is_told_with_those_there_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "inv.toml").write_text('line = "el7"\n')
    ended = inv(name, *ONE_LINE[name], cwd=tmp_path)
    assert ended.status == ExitCode.USAGE
    assert (
        f"line 'el7': not found; did you mean el6?\n  why: known: {', '.join(resources.line_names())}"
        in ended.error_text
    )


# --- Exit codes and errors -----------------------------------------------------------------------------

MISTAKES = [
    ["nonsense"],
    ["lines", "--colour"],
    ["pin"],
    ["mirror", "export"],
    ["lines", "--artifacts"],
    ["lines", "--show", "nonsense"],
    ["store", "burn"],
    ["patches", "--diff", "only-one"],
    ["fetch", "--jobs", "none"],
    ["test", "--only", "some"],
    ["build"],
    ["build", "kernel", "nonsense"],
    ["clean", "everything"],
    ["build-all", "--runtime", "chroot"],
    ["build-all", "--image", "fedora"],
    ["build-all", "--only", "kernal"],
    ["build-all", "--only", "kernel:nobody"],
    ["build-all", "--line", "lts61", "--force", "kernel:director"],
    ["build", "kernel", "--force", "ipvsadmin"],
    ["build", "kernel", "--role", "nobody"],
]


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_on_the_command_line_ends_with_2_and_says_what_to_type(words: list[str]) -> None:
    result = inv(*words)
    assert result.status == ExitCode.USAGE
    assert result.out == b""
    assert result.error_text.startswith("error: ")
    assert "\n  next: " in result.error_text
    assert "Traceback" not in result.error_text


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_with_json_a_mistake_is_one_document_too(words: list[str]) -> None:
    result = inv(*words[:1], "--json", *words[1:])
    document = json.loads(result.text)
    assert document["exit_code"] == result.status == ExitCode.USAGE
    assert result.error_text.startswith(f"error: {document['what']}")


def all_errors() -> list[type[PipelineError]]:
    found = [PipelineError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in dict.fromkeys(found) if kind.__module__ == errors.__name__]


def program(body: Any) -> Program:
    """A program whose one verb is `go`, with `body` as what it does."""

    @verb()
    def go(context: RunContext) -> Any:
        """Does it."""
        return body(context)

    return Program(Collection(go=go), "0")


def ends(body: Any, *words: str) -> int:
    """The exit status of `go` with `words`."""
    return program(body).run(["go", *words])


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_each_typed_error_ends_with_its_own_code(kind: type[PipelineError], capsys: pytest.CaptureFixture[str]) -> None:
    error = kind("title", []) if kind is errors.FileProblems else kind("what happened", hint="do this")

    def body(_: RunContext) -> None:
        raise error

    assert ends(body, "--json") == kind.code
    out, err = capsys.readouterr()
    assert json.loads(out) == encode(error)
    assert err == f"error: {error}\n"


def test_the_codes_of_errors_are_those_of_the_public_table() -> None:
    assert [code.value for code in ExitCode] == list(range(9))
    assert {kind.code for kind in all_errors()} <= set(ExitCode)
    assert all(code.meaning for code in ExitCode)


def test_an_outcome_carries_its_own_code_and_still_prints_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(lambda _: Outcome({"damaged": 1}, ExitCode.REFUSED), "--json") == ExitCode.REFUSED
    assert json.loads(capsys.readouterr().out) == {"damaged": 1}


def test_a_result_is_printed_with_json_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(lambda _: {"answer": 42}) == 0
    assert capsys.readouterr().out == ""
    assert ends(lambda _: {"answer": 42}, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"answer": 42}


def test_a_person_who_stops_it_is_told_that_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    def body(_: RunContext) -> None:
        raise KeyboardInterrupt

    assert ends(body) == 130
    assert "goes on with the next run" in capsys.readouterr().err


def test_json_may_also_be_set_in_the_environment_and_the_settings_file(tmp_path: Path) -> None:
    assert json.loads(inv("lines", FNAT_JSON="1").text)
    (tmp_path / "inv.toml").write_text("json = true\n")
    assert json.loads(inv("lines", cwd=tmp_path).text)


def test_a_mistake_in_the_settings_file_is_the_persons_and_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "inv.toml").write_text("jobs = 2\nnonsense = 1\n")
    result = inv("lines", cwd=tmp_path)
    assert result.status == ExitCode.USAGE
    assert "inv.toml:2: unknown setting 'nonsense'" in result.error_text


def test_invokes_own_settings_files_and_variables_have_no_say(tmp_path: Path) -> None:
    for name in (".invoke.py", "invoke.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / ".invoke.yaml").write_text("tasks: {auto_dash_names: false}\n")
    listed = inv("--list", cwd=tmp_path, HOME=str(tmp_path), INVOKE_TASKS_AUTO_DASH_NAMES="0")
    assert (listed.status, listed.text) == (0, inv("--list").text)
    (tmp_path / ".invoke.yaml").unlink()
    assert inv("--list", cwd=tmp_path, HOME=str(tmp_path)).text == listed.text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["", ".", ":{bin}", ".:{bin}", "{bin}::"])
def test_programs_are_taken_from_absolute_places_only(tmp_path: Path, path: str) -> None:
    (tmp_path / "git").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "git").chmod(0o755)
    (tmp_path / "bin").mkdir()  # without git
    patch = tmp_path / "some.patch"
    patch.write_text("--- a/file\n+++ b/file\n@@ -1 +1 @@\n-one\n+two\n")
    said = inv("patches", "--classify", str(patch), cwd=tmp_path, PATH=path.format(bin=tmp_path / "bin"))
    assert "the program git is not installed" in said.error_text or "no role" in said.error_text
    assert not (tmp_path / "ran").exists()


def test_json_is_one_document_and_notes_are_elsewhere() -> None:
    document = json.loads(inv("lines", "--json").text)
    assert {item["line"] for item in document} >= {"el6", "lts61"}
    whole = json.loads(inv("lines", "--show", "el6", "--json").text)
    assert whole["patches"]["lvs"]["leave-out"][0]["file"] == ".config"


def test_a_line_file_is_shown_with_the_command_that_shows_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a line.toml"
    file.write_text('schema = 1\nextends = "el6"\nname = "mine"\n')
    for words in (["el6"], ["--show", "el6"], ["--line-file", str(file)]):
        (typed,) = re.findall(r"every value: \./inv (.*)", inv("lines", *words).text)
        assert json.loads(inv(*shlex.split(typed)).text)["line"] == ("el6" if "el6" in words else "mine")


# --- Ways in, pipes, start-up --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["lines"], ["lines", "--json"], ["lines", "--show", "lts61"]], ids=" ".join)
def test_both_ways_in_give_the_same(words: list[str]) -> None:
    invoke = run([sys.executable, "-m", "invoke", *words], cwd=ROOT)
    ours = inv(*words)
    assert (invoke.status, invoke.out) == (ours.status, ours.out)
    assert ours.out


def test_the_version_is_the_packages() -> None:
    assert inv("--version").text == f"inv {__version__}\n"


def test_every_task_is_listed_and_has_its_help() -> None:
    listed = inv("--list").text
    for name in REAL.task_names:
        assert f"\n  {name} " in listed
        assert inv("--help", name).status == 0


@pytest.mark.parametrize("name", sorted(REAL.task_names))
def test_help_reads_the_same_before_and_after_the_verb(name: str) -> None:
    expected = inv("--help", name).text
    assert "--artifacts" in expected and "directory of everything" in expected
    for words in ([name, "--help"], [name, "--json", "-h"], [name, "a-word", "--help"]):
        assert inv(*words).text == expected


@pytest.mark.parametrize("typed", ["mirror export --ofline", "pin --quite el6 kernel-srpm", "store --gc"])
def test_an_unknown_option_is_never_taken_for_a_word(typed: str, tmp_path: Path) -> None:
    result = inv(*typed.split(), cwd=tmp_path)
    assert result.status == ExitCode.USAGE
    assert result.error_text.startswith("error: option --")
    assert list(tmp_path.iterdir()) == []


# Of invoke, beside those that this program has too.
OF_INVOKE = (
    *("--command-timeout=9", "-T9", "--config=x", "-f", "--debug", "-d", "--dry", "-R", "--echo", "-e", "--hide=both"),
    *("--list-depth=1", "-D", "--list-format=json", "-F", "--prompt-for-sudo-password", "--pty", "-p", "--warn-only"),
    *("-w", "--write-pyc", "--collection=x", "-c", "--no-dedupe", "--search-root=.", "-r"),
)


@pytest.mark.parametrize("option", OF_INVOKE)
def test_an_option_of_invoke_is_refused_before_anything_happens(option: str, tmp_path: Path) -> None:
    failed = tmp_path / "artifacts" / "steps" / "el6" / "kernel" / ".failed"
    failed.mkdir(parents=True)
    for words in ([option, "clean", "all"], ["clean", option, "all"], ["clean", "all", option]):
        ended = inv(*words, cwd=tmp_path)
        assert ended.status == ExitCode.USAGE
        assert ended.error_text.startswith(f"error: option {option.partition('=')[0]}")
        assert failed.is_dir()


@pytest.mark.parametrize("option", ["--dry", "--echo", "--pty", "--hide=both", "--warn-only"])
def test_invoke_cannot_pretend_to_run_a_verb(option: str, tmp_path: Path) -> None:
    failed = tmp_path / "artifacts" / "steps" / "el6" / "kernel" / ".failed"
    failed.mkdir(parents=True)
    argv = [sys.executable, "-m", "invoke", "--search-root", str(ROOT), option, "clean", "--what", "all"]
    ended = run(argv, cwd=tmp_path, env=clean_environment(PYTHONPATH=str(ROOT)), accept=range(256))
    assert ended.status == ExitCode.USAGE
    assert ended.error_text.startswith(f"error: option {option.partition('=')[0]} of invoke")
    assert failed.is_dir()


@pytest.mark.parametrize(
    "words",
    [["--list"], ["--help"], ["--help", "fetch"], ["lines"], ["lines", "--json", "--show", "el6"]],
    ids=" ".join,
)
def test_a_reader_that_has_seen_enough_gets_no_traceback(words: Sequence[str]) -> None:
    argv = [sys.executable, "-m", "pipeline", *words]
    env = clean_environment(PYTHONPATH=str(ROOT))
    read, write = os.pipe()
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        os.close(read)  # as `| true` does: nobody ever reads
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")


def test_nothing_heavy_is_loaded_to_list_the_tasks_or_give_help() -> None:
    for words in (["--list"], ["--help", "fetch"], ["--version"]):
        code = (
            "import sys; sys.argv[1:] = sys.argv[2:]\n"
            "from pipeline.cli.app import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        )
        env = clean_environment(PYTHONPATH=str(ROOT))
        loaded = run([sys.executable, "-c", code, "inv", *words], cwd=ROOT, env=env).error_text.split()
        assert "invoke" in loaded
        assert not set(HEAVY) & set(loaded), words


@pytest.mark.parametrize("module", ["identify", "diff", "trace"])
def test_what_reads_packages_alone_loads_no_models_of_lines(module: str) -> None:
    code = f"import sys, pipeline.commands.{module}; print(*sys.modules)"
    loaded = run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT))).text.split()
    assert f"pipeline.commands.{module}" in loaded
    assert not set(HEAVY) & set(loaded)


def test_what_must_not_be_loaded_at_start_is_there_to_be_loaded() -> None:
    assert [name for name in HEAVY if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("words", [("build-all",), ("fetch", "lts61"), ("image",), ("patches", "el6")])
def test_artifacts_that_cannot_be_had_are_told_and_not_traced(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()
    ended = inv(*words, "--offline", "--artifacts", "file", cwd=tmp_path)
    assert ended.status == ExitCode.HOST
    assert "error: the artifacts directory file cannot be used" in ended.error_text
    assert "Traceback" not in ended.error_text


# --- Names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lines lts6", "lts61"),
        ("fetch --line lts62", "lts612"),
        ("build kernle", "kernel"),
        ("build kernel --role directr", "director"),
        ("build lts612 kernel --role director", ""),
        ("build-all --only kernal", "kernel"),
        ("build-all --force ipvsadmin", "ipvsadm"),
        ("build-all --image debain12", "debian12"),
        ("build-all --runtime bublewrap", "bubblewrap"),
        ("build-all --kernel-config smal", "small"),
        ("smoke --scenario natt", "nat"),
        ("clean fialed", "failed"),
        ("clean old --line lts6", "lts61"),
        ("store verfy", "verify"),
        ("mirror exprot DIR", "export"),
        ("test --only e2", "e2e"),
        ("pin el6 kernel-sprm", "kernel-srpm"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_the_one_meant(typed: str, meant: str, tmp_path: Path) -> None:
    ended = inv(*typed.split(), cwd=tmp_path)
    assert ended.status == ExitCode.USAGE
    first = ended.error_text.splitlines()[0]
    assert first.endswith(f"; did you mean {meant}?" if meant else "not found")


def test_the_words_of_verbs_are_those_that_their_commands_know() -> None:
    from pipeline.ci import registry
    from pipeline.commands import build, clean
    from pipeline.config.line_model import RoleName

    verbs = {name: task.verb for name, task in REAL.tasks.items()}
    assert verbs["build"].parameters["name"].choices == build.PACKAGES
    assert set(verbs["build"].parameters["role"].choices) == set(RoleName)
    assert verbs["clean"].parameters["what"].choices == tuple(clean.WORDS)
    assert verbs["ci"].parameters["kind"].choices == tuple(registry.KINDS)
