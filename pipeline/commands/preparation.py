"""Establish once per run what builds start from: verified sources, proven series, the runtime, builder images, plans.

`build-all`, its comparison of two builds and its lab all take it from here, so that nothing is fetched, proven or
planned a second time. Knows no step by name and publishes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pipeline.commands import leftovers
from pipeline.config.context import RunContext
from pipeline.config.line_model import Line, ModuleSet, RoleName
from pipeline.config.settings import Settings
from pipeline.packaging import ccache, job
from pipeline.packaging.ccache import RemoteCaches
from pipeline.packaging.graph import Step
from pipeline.patching import series, tool_series
from pipeline.patching.patched_trees import Trees
from pipeline.patching.series_rules import RoleProof
from pipeline.patching.verified_patch import VerifiedPatch
from pipeline.recipes import module_key
from pipeline.recipes.base import BuildInputs
from pipeline.recipes.builder_images import builder
from pipeline.recipes.module_key import ModuleKey
from pipeline.sandbox import images
from pipeline.sandbox.runtime import Image, Job, JobResult, Limits, Runtime
from pipeline.sources.records import Answer, Verified
from pipeline.sources.resolver import Sources


class LazyRuntime:
    """The runtime that the settings choose, looked for only when something has to be built."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    @cached_property
    def _chosen(self) -> Runtime:
        from pipeline.sandbox.choice import choose

        chosen = choose(self._context.settings.runtime, self._context.console)
        for left in chosen.reap():
            self._context.console.note(f"removed what a killed run left: {left}")
        return chosen

    @property
    def name(self) -> str:
        """Return its name as evidence has it."""
        return self._chosen.name

    def run(self, job: Job) -> JobResult:
        """Run the job."""
        return self._chosen.run(job)

    def shell(self, job: Job) -> int:
        """Run the job on the person's terminal."""
        return self._chosen.shell(job)

    def reap(self) -> list[str]:
        """Return nothing: that was done when the runtime was chosen."""
        return []


@dataclass(frozen=True)
class Earlier:
    """The start of an earlier run: Debian's answers by source, and the key of each builder image by its name."""

    answers: Mapping[str, Answer]
    images: Mapping[str, str]


@dataclass
class Preparation:
    """The parts of a line that one run establishes, each once and when first needed.

    `usable` are the builder images that the line's recipe names, `plan` makes its steps. `earlier`: start from what
    that run did, as far as it is kept. `proofs` are those of the roles, established with `trees`.
    """

    line: Line
    context: RunContext
    usable: Sequence[str]
    plan: Callable[[BuildInputs], Sequence[Step]]
    earlier: Earlier | None = None
    proofs: dict[RoleName, RoleProof] = field(init=False, default_factory=dict)
    _found: dict[str, Mapping[str, Verified]] = field(init=False, default_factory=dict)
    _steps: dict[str, Sequence[Step]] = field(init=False, default_factory=dict)
    _images: dict[str, Image] = field(init=False, default_factory=dict)

    @cached_property
    def sources(self) -> Sources:
        """The line's sources, each resolved and verified once."""
        answers = self.earlier.answers if self.earlier else None
        return Sources(self.line, self.context.settings, self.context.console, answers)

    @cached_property
    def patches(self) -> Mapping[RoleName, Sequence[VerifiedPatch]]:
        """The patches of each role's series, verified. Raises `Refused` for what is not as its series says."""
        return series.verify_patches(self.line, self._verified(self.context.settings.image))

    @cached_property
    def trees(self) -> Trees:
        """The kernel tree after each series, with the roles verified by it. Raises `Refused`."""
        trees = Trees(self.sources, self.patches, self._verified(self.context.settings.image))
        self.proofs |= series.verify_roles(self.line, trees)
        return trees

    @cached_property
    def tools(self) -> tool_series.PatchedTools:
        """The patches of each tool, verified. Raises `Refused` for one that is not as pinned."""
        verified = self._verified(self.context.settings.image)
        return tool_series.PatchedTools(tool_series.verify(self.line), verified, self.context.settings.artifacts)

    @cached_property
    def runtime(self) -> LazyRuntime:
        """The runtime of this run's builds."""
        return LazyRuntime(self.context)

    @cached_property
    def module_key(self) -> ModuleKey | None:
        """The key that signs modules; None without one, or without modules in the line. Raises as `open_key`."""
        settings = self.context.settings
        if any(isinstance(package, ModuleSet) for package in self.line.data.packages.values()):
            return module_key.open_key(settings.module_key, settings.module_certificate)
        if settings.module_key:
            self.context.console.note(f"line {self.line.label} has no package of modules: module-key is not used")
        return None

    def image(self, name: str = "", *, fresh: bool = False) -> Image:
        """Return the builder image `name`, that of the settings without one, made when it is not there.

        Removes the leftovers of killed runs before the first one.
        """
        requested = name or self.context.settings.image
        if fresh or requested not in self._images:
            if not self._images:
                leftovers.remove(self.context.settings.artifacts)
            context = replace(self.context, settings=replace(self.context.settings, image=requested))
            made = self._kept(requested) or builder(context, self.usable, fresh=fresh)
            self._images |= {requested: made, made.name: made}
        return self._images[requested]

    def _kept(self, name: str) -> Image | None:
        key = self.earlier.images.get(name) if self.earlier else None
        return images.kept_image(name, key, self.context.settings.artifacts / "images") if key else None

    def steps(self, image: str = "") -> Sequence[Step]:
        """Return what the recipe makes in the builder image `image`, that of the settings without one.

        Sources are fetched and roles verified before an image is made, which takes a minute: they may be refused.
        """
        trees, tools = self.trees, self.tools
        made = self.image(image)
        if made.name not in self._steps:
            verified, settings = self._verified(made.name), self.context.settings
            caches, remote = self.ccache(made.name), self.remote_caches(made.name)
            environment = job.BuildEnvironment(self.runtime, made, caches, limits(settings), remote)
            small = settings.kernel_config == "small"
            self._steps[made.name] = self.plan(
                BuildInputs(
                    *(self.line, verified, self.patches, environment, trees.of, small),
                    tools={name: found for name, found in tools.series.items() if found.patches},
                    prove_tool=tools.of,
                    module_key=self.module_key,
                )
            )
        return self._steps[made.name]

    def ccache(self, image: str) -> Path | None:
        """Return where this line file's compiler caches are; None where every file is to be compiled."""
        settings = self.context.settings
        if settings.no_ccache:
            return None
        return ccache.directory(settings.artifacts / "ccache", self.line, image)

    def remote_caches(self, image: str) -> RemoteCaches | None:
        """Return the compiler caches that one trusted host fills; None without them. Raises `UsageError`."""
        settings = self.context.settings
        return ccache.opened_remote(settings.ccache_remote, self.line, image, writes=settings.ccache_writer)

    def _verified(self, image: str) -> Mapping[str, Verified]:
        """Return the sources that builds in `image` need, each fetched once."""
        if image not in self._found and (not self._found or self.sources.has_own(image)):
            self._found[image] = {item.name: item for item in self.sources.fetch(image)}
        return self._found.get(image) or next(iter(self._found.values()))


def limits(settings: Settings) -> Limits:
    """Return the limits of a build that the settings name."""
    return Limits(
        wall=settings.build_time,
        idle=settings.build_silence,
        memory=settings.build_memory << 20,
        size=settings.build_disk << 20,
        processes=settings.build_processes,
    )
