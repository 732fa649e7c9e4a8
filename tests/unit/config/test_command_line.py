"""Command lines as people type them: which word is what, and what is said of those that no verb takes."""

from __future__ import annotations

import shlex

import pytest
from invoke.collection import Collection

import tasks
from pipeline.config.command_line import Kind, parse
from pipeline.core import resources
from pipeline.errors import UsageError

VERBS = {name: task.verb for name, task in Collection.from_module(tasks).tasks.items()}


def read(typed: str) -> list[tuple[str, dict[str, object]]]:
    return [(call.verb.name, call.values) for call in parse(shlex.split(typed), VERBS)]


def refused(typed: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(shlex.split(typed), VERBS)
    return caught.value


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("patches", {}),
        ("patches el6", {"line": "el6"}),
        ("patches --line el6", {"line": "el6"}),
        ("patches --line=el6", {"line": "el6"}),
        ("patches --json el6", {"json": True, "line": "el6"}),
        ("patches el6 --json", {"json": True, "line": "el6"}),
        ("patches --artifacts here el6", {"artifacts": "here", "line": "el6"}),
        ("patches --artifacts=a=b el6", {"artifacts": "a=b", "line": "el6"}),
        ("patches --artifacts=--json", {"artifacts": "--json"}),
        ("patches --artifacts ''", {"artifacts": ""}),
        ("patches --line el6 --line el6", {"line": "el6"}),
        ("patches --diff A B", {"diff": ["A", "B"]}),
        ("patches --diff A B el6 --quiet", {"diff": ["A", "B"], "line": "el6", "quiet": True}),
        ("patches --mirror A el6 --mirror B", {"mirror": ["A", "B"], "line": "el6"}),
        ("patches --classify - el6", {"classify": "-", "line": "el6"}),
        ("lines lts61", {"line": "lts61"}),
        ("lines --show lts61", {"show": "lts61"}),
        ("mirror export DIR", {"action": "export", "directory": "DIR"}),
        ("mirror export DIR el6", {"action": "export", "directory": "DIR", "line": "el6"}),
        ("mirror export el6", {"action": "export", "directory": "el6"}),
        ("mirror export DIR --line el6", {"action": "export", "directory": "DIR", "line": "el6"}),
        ("mirror --action export DIR el6", {"action": "export", "directory": "DIR", "line": "el6"}),
        ("mirror export -- -d", {"action": "export", "directory": "-d"}),
        ("pin el6 kernel-srpm", {"line": "el6", "source": "kernel-srpm"}),
        ("store gc", {"action": "gc"}),
        ("shell kernel:stock", {"step": "kernel:stock"}),
        ("shell lts61 kernel:stock", {"line": "lts61", "step": "kernel:stock"}),
        ("shell kernel:stock --line lts61", {"line": "lts61", "step": "kernel:stock"}),
        ("shell lts6 kernel:stock", {"line": "lts6", "step": "kernel:stock"}),
        ("logs", {}),
        ("logs kernel", {"step": "kernel"}),
        ("logs lts61", {"line": "lts61"}),
        ("logs lts61 kernel", {"line": "lts61", "step": "kernel"}),
        ("logs mine kernel", {"line": "mine", "step": "kernel"}),
        ("build", {"name": []}),
        ("build kernel ipvsadm", {"name": ["kernel", "ipvsadm"]}),
        ("build lts61 kernel ipvsadm", {"line": "lts61", "name": ["kernel", "ipvsadm"]}),
        ("build kernel --line lts61 ipvsadm fetch", {"line": "lts61", "name": ["kernel", "ipvsadm", "fetch"]}),
        ("build --name kernel ipvsadm", {"name": ["kernel", "ipvsadm"]}),
        ("clean", {"what": []}),
        ("clean old failed", {"what": ["old", "failed"]}),
        ("clean lts61 old", {"line": "lts61", "what": ["old"]}),
        ("status lts61 --verify", {"line": "lts61", "verify": True}),
    ],
)
def test_each_word_is_what_its_place_says(typed: str, values: dict[str, object]) -> None:
    assert read(typed) == [(typed.partition(" ")[0], values)]


def test_verbs_follow_each_other() -> None:
    both = [("fetch", {"line": "el6"}), ("patches", {"line": "el6", "json": True})]
    assert read("fetch el6 patches el6 --json") == both
    assert read("fetch --line el6 patches --line el6 --json") == both
    assert read("mirror export DIR store gc fetch") == [
        ("mirror", {"action": "export", "directory": "DIR"}),
        ("store", {"action": "gc"}),
        ("fetch", {}),
    ]


def test_every_verb_that_takes_a_line_takes_it_as_a_word_too() -> None:
    for name, verb in VERBS.items():
        if "line" in verb.parameters:
            assert "line" in verb.words, name
            needed = ["export", "DIR"] if name == "mirror" else ["x"] if name in ("shell", "pin", "cves") else []
            typed = [*needed, "lts61"] if name == "mirror" else ["lts61", *needed]
            typed = {"ci": ["systemd", "lts61"], "cluster": ["up", "lts61"], "publish": ["DIR", "lts61"]}.get(
                name, typed
            )
            (call,) = parse([name, *typed], VERBS)
            assert call.values["line"] == (["lts61"] if verb.many == "line" else "lts61")


def test_every_example_can_be_typed() -> None:
    for verb in VERBS.values():
        assert verb.example and read(verb.example)[0][0] == verb.name


@pytest.mark.parametrize(
    ("typed", "what", "hint"),
    [
        ("fetsch lts61", "verb 'fetsch': not found; did you mean fetch?", "./inv fetch lts61"),
        ("nonsense el6", "verb 'nonsense': not found", "./inv --list"),
        ("fetch lts61 lts612", "fetch: too many words; expected ./inv fetch [LINE] [OPTIONS], got 'lts612' besides",
         "./inv fetch lts61"),
        ("fetch --line lts61 lts612", "fetch: too many words; expected ./inv fetch [LINE] [OPTIONS], got 'lts612' "
         "besides", "./inv fetch --line lts61"),
        ("fetch lts61 a b --json", "fetch: too many words; expected ./inv fetch [LINE] [OPTIONS], got 'a', 'b' besides",
         "./inv fetch lts61 --json"),
        ("fetch lts61 patchs", "fetch: too many words; expected ./inv fetch [LINE] [OPTIONS], got 'patchs' besides; "
         "did you mean patches?", "./inv fetch lts61"),
        ("doctor el6", "doctor: too many words; expected ./inv doctor [OPTIONS], got 'el6' besides", "./inv doctor"),
        ("fetch --line lts61 --line el6", "option --line of fetch: two values; expected one, got lts61 and el6",
         "./inv --help fetch"),
        ("pin", "pin: LINE is missing; expected ./inv pin LINE SOURCE [OPTIONS]", "./inv --help pin"),
        ("pin el6", "pin: SOURCE is missing; expected ./inv pin LINE SOURCE [OPTIONS]", "./inv --help pin"),
        ("shell lts61", "shell: STEP is missing; expected ./inv shell [LINE] STEP [OPTIONS]", "./inv --help shell"),
        ("mirror export --ofline DIR", "option --ofline of mirror: not found; did you mean --offline?",
         "./inv mirror export --offline DIR"),
        ("fetch --mirorr='a b'", "option --mirorr of fetch: not found; did you mean --mirror?",
         "./inv fetch '--mirror=a b'"),
        ("lines --scenario nat", "option --scenario of lines: not found", "./inv --help lines"),
        ("lines -x", "option -x of lines: not found", "./inv --help lines"),
        ("lines -json", "option -json of lines: not found; did you mean --json?", "./inv lines --json"),
        ("lines --json=1", "option --json of lines: takes no value; expected --json, got --json=1",
         "./inv lines --json"),
        ("--json lines", "option --json: stands before the verb; expected ./inv VERB --json", "./inv lines --json"),
        ("--artifacts there lines", "option --artifacts: stands before the verb; expected ./inv VERB --artifacts",
         "./inv lines --artifacts there"),
        ("--artifacts", "option --artifacts: stands before the verb; expected ./inv VERB --artifacts", "./inv --list"),
        ("--dry clean old", "option --dry: not found; did you mean --dry-run?", "./inv --help"),
        ("fetch --artifacts", "option --artifacts of fetch: its value is missing; expected DIR, got nothing",
         "./inv --help fetch"),
        ("fetch --artifacts --json", "option --artifacts of fetch: its value is missing; expected DIR, got --json",
         "./inv --help fetch"),
        ("fetch --runtime", "option --runtime of fetch: not found", "./inv --help fetch"),
        ("smoke --runtime", "option --runtime of smoke: its value is missing; expected one of auto, bubblewrap, "
         "docker, got nothing", "./inv --help smoke"),
        ("patches --diff A", "option --diff of patches: its value is missing; expected --diff OLD NEW, got nothing",
         "./inv --help patches"),
    ],
)  # fmt: skip
def test_what_no_verb_takes_is_refused_with_what_was_meant(typed: str, what: str, hint: str) -> None:
    error = refused(typed)
    assert (error.what, error.hint) == (what, hint)
    if not hint.startswith(("./inv --help", "./inv --list")):
        assert read(hint.removeprefix("./inv "))


def test_an_option_of_other_verbs_is_told_with_them() -> None:
    assert refused("lines --scenario nat").why == "it belongs to smoke, boot, lab"


def test_a_new_line_needs_no_code_to_be_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "line_names", lambda: ["mine"])
    assert read("build mine kernel") == [("build", {"line": "mine", "name": ["kernel"]})]
    assert read("build lts61 kernel") == [("build", {"name": ["lts61", "kernel"]})]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("publish --to ''", "option --to of publish: empty; expected TARGET"),
        ("publish --to=", "option --to of publish: empty; expected TARGET"),
        ("publish ''", "option --to of publish: empty; expected TARGET"),
        ("mirror export ''", "option --directory of mirror: empty; expected DIR"),
        ("audit latest --html ''", "option --html of audit: empty; expected FILE"),
        ("patches --diff A ''", "option --diff of patches: empty; expected OLD NEW"),
        ("sign ''", "option --unsigned of sign: empty; expected UNSIGNED"),
        ("diff latest ''", "option --after of diff: empty; expected SNAPSHOT"),
    ],
)
def test_an_empty_value_is_not_taken_for_the_current_directory(typed: str, said: str) -> None:
    assert refused(typed).what == said


def test_no_verb_takes_an_empty_place() -> None:
    own = [(verb, each) for verb in VERBS.values() for each in verb.parameters.values() if not each.setting]
    given = [(verb, each) for verb, each in own if each.name != "line" and each.kind in (Kind.TEXT, Kind.LIST)]
    assert len(given) > 20
    for verb, each in given:
        needed = [
            name for name in verb.words if name != each.name and (verb.parameters[name].required or name == verb.many)
        ]
        typed = " ".join([verb.name, f"{each.option}=", *(f"--{name}=x" for name in needed)])
        assert refused(typed).what.startswith(f"option {each.option} of {verb.name}: empty")
