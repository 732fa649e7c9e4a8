"""Complete command lines in bash, zsh and fish: verbs, options, lines, scenarios, and other names.

The script of a shell asks `./inv --complete -- WORD...` for what the last word may become, a candidate a line. Where
none is known, the shell offers files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.config.command_line import HELP, LINE, Kind, Parameter, Verb
from pipeline.core import resources

OF_PROGRAM = ("--help", "--list", "--version", "--print-completion-script")

_BASH = """\
_inv() {
    local typed=${COMP_LINE:0:COMP_POINT} words before
    read -a words <<<"$typed" # without -r: a blank in the program's path is typed with a backslash
    [[ $typed != *[[:space:]] ]] || words+=('')
    mapfile -t COMPREPLY < <("${words[0]/#\\~/$HOME}" --complete -- "${words[@]:1}" 2>/dev/null)
    # Bash replaces only what follows the last = or : of a word.
    before=${words[-1]%"${words[-1]##*[=:]}"}
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o default -F _inv inv
"""
_ZSH = """\
#compdef inv
_inv() {
    local -a found
    found=("${(@f)$("${(Q)words[1]/#\\~/$HOME}" --complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    [[ -n $found[1] ]] && compadd -a found || _files
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _inv inv
"""
_FISH = """\
function __inv_complete
    set -l words (commandline -opc)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    $program --complete -- $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c inv -a '(__inv_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def candidates(words: Sequence[str], verbs: Mapping[str, Verb]) -> list[str]:
    """Return what the last word of a command line may become."""
    *before, current = words or [""]
    return sorted(each for each in _possible(before, current, verbs) if each.startswith(current))


def _possible(before: Sequence[str], current: str, verbs: Mapping[str, Verb]) -> Iterable[str]:
    verb = next((verbs[word] for word in reversed(before) if word in verbs), None)
    if verb is None or before[0] in HELP:
        if before[-1:] == ["--print-completion-script"]:
            return SCRIPTS
        return OF_PROGRAM if current.startswith("-") else verbs
    last = verb.parameters.get(before[-1].removeprefix("--")) if before[-1].startswith("--") else None
    if last and last.kind is not Kind.FLAG:
        return _values(last)
    name, equals, _ = current.partition("=")
    if equals:
        parameter = verb.parameters.get(name.removeprefix("--"))
        return [f"{name}={value}" for value in _values(parameter)] if parameter else ()
    if current.startswith("-"):
        used = {word.partition("=")[0] for word in before}
        return [p.option for p in verb.parameters.values() if p.option not in used or p.kind is Kind.LIST]
    return [value for word in verb.words for value in _values(verb.parameters[word]) if value not in before]


def _values(parameter: Parameter) -> Iterable[str]:
    return parameter.choices or _NAMES.get(parameter.name, tuple)()


def _scenarios() -> Iterable[str]:
    from pipeline.lab.scenarios import NAMES

    return NAMES


def _steps() -> Iterable[str]:
    """Return the steps of every line: of packages, and of a kernel for each role."""
    from pipeline.config.command_line import VERBS

    build = VERBS["build"].parameters
    return (*build["name"].choices, *(f"kernel:{role}" for role in build["role"].choices))


def _images() -> Iterable[str]:
    return ("auto", *resources.image_names())


_NAMES: Mapping[str, Callable[[], Iterable[str]]] = {
    LINE: resources.line_names,
    "show": resources.line_names,
    "server-line": resources.line_names,
    "scenario": _scenarios,
    "image": _images,
    "step": _steps,
    "only": _steps,
    "force": _steps,
}
