"""Run one step's build in a sandbox: directories, log, diagnosis, and the record for a later shell.

Must not know what is built: a recipe fills the directories and explains its own failures.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pipeline.core import disk_space, documents, neutral
from pipeline.errors import Refused, UsageError
from pipeline.packaging import ccache, compiled_sources, diagnostics, outputs, rpmbuild
from pipeline.packaging.ccache import RemoteCaches
from pipeline.packaging.graph import Work
from pipeline.sandbox.runtime import EndReason, Image, Job, Limits, Mount, Runtime, chown_to_build_user

JOB = "job.json"  # beside a step's scratch: what to enter again


@dataclass(frozen=True)
class BuildEnvironment:
    """The environment of builds: the runtime, the image, the directory of the compiler caches, the limits of a job.

    Without caches every file is compiled. `remote` are caches beside them.
    """

    runtime: Runtime
    image: Image
    ccache: Path | None
    limits: Limits
    remote: RemoteCaches | None = None


@dataclass(frozen=True)
class SpecBuild:
    """A step's part of a build: the spec's name, functions that write SOURCES and SPECS and explain failures.

    `explain_failure` gets the log and the top directory; it raises its own error or returns. `disk_space` in bytes.
    `environment` extends that of every build. `cache` is the kind of step whose compiler cache the build uses: empty
    for one that compiles nothing, or nothing through it. `compiled` is where the compiler's records lie, None for a
    build that compiles nothing.
    """

    spec: str
    epoch: int
    write_sources: Callable[[Path, Path], None]
    explain_failure: Callable[[Path, Path], None]
    macros: rpmbuild.Macros
    disk_space: int = 64 << 20
    environment: Mapping[str, str] = field(default_factory=dict)
    cache: str = ""
    compiled: compiled_sources.Recorded | None = None


@dataclass(frozen=True)
class _SavedJob:
    """The saved job of a failed step, to enter its sandbox."""

    image: Image
    argv: tuple[str, ...]
    mounts: tuple[Mount, ...]
    environment: Mapping[str, str]


def build_packages(work: Work, environment: BuildEnvironment, recipe: SpecBuild) -> Path:
    """Build the recipe's packages and return the directory in `work.out` that holds them.

    The record of compiled sources lies beside it. Raises as `run_build`.
    """
    argv = rpmbuild.build_argv(recipe.spec, replace(recipe.macros, jobs=work.jobs))
    top = run_build(work, environment, recipe, argv)
    rpms = work.out / "rpms"
    built = build_outputs(work, top)
    built.copy_packages(rpms)
    if recipe.compiled is not None:
        compiled_sources.write(work.out, compiled_sources.collect(built, recipe.compiled))
    return rpms


def run_build(work: Work, environment: BuildEnvironment, recipe: SpecBuild, argv: Sequence[str]) -> Path:
    """Run a recipe's command in the sandbox and return its top directory on the host.

    Raises `BuildFailed` with the first real error of the log and the next commands, and `HostLacks` when
    disk space is missing or the engine went away.
    """
    top = work.scratch / "build"
    disk_space.require(work.scratch, recipe.disk_space + environment.limits.free, f"building {work.step.name}")
    rpmbuild.make_tree(top)
    (top / PurePosixPath(rpmbuild.CCACHE_REMOTE).name).mkdir(exist_ok=True)
    recipe.write_sources(top / "SOURCES", top / "SPECS")
    chown_to_build_user(top)
    mounts = [Mount(top.resolve(), rpmbuild.TOPDIR, True)]
    caches = _cache_mounts(environment, recipe.cache) if work.compiler_cache else []
    mounts += caches
    job = Job(
        image=environment.image,
        argv=tuple(argv),
        log=work.log,
        mounts=tuple(mounts),
        environment={
            **rpmbuild.environment(
                recipe.epoch,
                jobs=work.jobs,
                ccache=rpmbuild.CCACHE if caches else "",
                remote=environment.remote.storage(rpmbuild.CCACHE_REMOTE)
                if environment.remote and len(caches) > 1
                else "",
            ),
            **recipe.environment,
        },
        cwd=rpmbuild.TOPDIR,
        limits=environment.limits,
    )
    _save_job(work, job)
    step, image = work.step.name, environment.image
    reproduce = work.command("build-all", "--only", step, "--force", step)
    head = f"# reproduce: {reproduce}\n# in {image.name} ({image.key}): {neutral.command(job.argv)}\n"
    work.log.write_text(head, errors="surrogateescape")
    follow = work.command("logs", step, "--follow")
    work.note(f"{work.step.name}: log {neutral.word(work.log)}; on another terminal: {follow}")
    ended = environment.runtime.run(job)
    if counted := ccache.read_statistics(top, rpmbuild.CCACHE_LOG):
        work.facts.ccache = counted
    if not ended.succeeded:
        # Else a build that lost its compiler would be reported as a failed one.
        for place in (image.rootfs, image.packages, *(mount.source for mount in job.mounts)):
            if not disk_space.is_there(place):
                raise disk_space.removed_error(place)
        if ended.reason is EndReason.EXIT:
            recipe.explain_failure(work.log, top)
        raise diagnostics.build_error(
            work, ended, diagnostics.BuildContext(top, environment.limits, environment.runtime.name)
        )
    return top


def _cache_mounts(environment: BuildEnvironment, kind: str) -> list[Mount]:
    """Return the mounts of the compiler caches for a kind of step, the local one first; none for a step without."""
    if environment.ccache is None or not kind:
        return []
    remote = environment.remote
    mark = ccache.REMOTE_MARK if remote else ""
    mounts = [Mount(ccache.prepare(environment.ccache / f"{kind}{mark}"), rpmbuild.CCACHE, True)]
    if remote and (place := remote.mounted(kind)):
        mounts.append(Mount(place, rpmbuild.CCACHE_REMOTE, remote.writes))
    return mounts


def build_outputs(work: Work, top: Path) -> outputs.BuildOutputs:
    """Return the accessor of the files in the build's top directory."""
    return outputs.BuildOutputs(work.step.name, top, work.command("shell", work.step.name))


def _save_job(work: Work, job: Job) -> None:
    known = _SavedJob(job.image, tuple(job.argv), tuple(job.mounts), job.environment)
    # A path or an argument may hold bytes that are no UTF-8: JSON escapes them.
    (work.scratch / JOB).write_text(documents.seal(known))


def load_failed_job(failed: Path) -> Job:
    """Load the job of a failed step in `failed`, with a shell as its command. Raises `UsageError` and `Refused`."""
    top = (failed / "scratch" / "build").resolve()  # it was moved here from where it was built
    hint = "./inv status"
    try:
        text = documents.read_text(failed / "scratch" / JOB, hint=hint)
        top.stat()
    except (OSError, Refused) as error:
        why = error.what if isinstance(error, Refused) else ""
        raise UsageError("no failed build is kept there", where=str(failed), why=why, hint=hint) from None
    try:
        return _parse_job(documents.unseal(_SavedJob, text), top, failed / "shell.log")
    except ValueError as error:
        raise documents.damaged(failed / "scratch" / JOB, "the job that failed", str(error), hint) from None


def _parse_job(known: _SavedJob, top: Path, log: Path) -> Job:
    return Job(
        image=known.image,
        argv=("/bin/bash",),
        log=log,
        mounts=tuple(replace(mount, source=_mount_source(mount, top)) for mount in known.mounts),
        environment={**known.environment, "TERM": "xterm", "BUILD_COMMAND": shlex.join(known.argv)},
    )


def _mount_source(mount: Mount, top: Path) -> Path:
    """Return the source of a stored mount; a compiler cache may have been removed or replaced meanwhile."""
    if mount.target == rpmbuild.TOPDIR:
        return top
    return ccache.prepare(mount.source) if mount.target == rpmbuild.CCACHE else mount.source


def built_packages(needs: Mapping[str, Path], names: Sequence[str]) -> list[Path]:
    """Return the packages that the named steps built, in order."""
    return [path for name in names for path in sorted((needs[name] / "rpms").glob("*.rpm"))]
