"""The plan: what a step's key covers, the order of steps, and which part of it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.packaging.graph import Step, StepGraph, Work


def nothing(_: Work) -> None:
    pass


def step(name: str, *needs: str, code: tuple[str, ...] = (), **inputs: Any) -> Step:
    return Step(name, nothing, inputs, needs, code)


def test_steps_come_behind_what_they_need() -> None:
    graph = StepGraph([step("publish", "kernel", "tools"), step("tools", "kernel"), step("kernel")])
    assert list(graph.steps) == ["kernel", "tools", "publish"]


def test_a_key_changes_with_every_input_with_what_is_needed_and_with_the_code() -> None:
    def key(**changes: Any) -> str:
        given: dict[str, Any] = {"kernel": "sha", "code": ("pipeline.core.trees",), "config": "a", **changes}
        steps = [
            step("kernel", source=given["kernel"]),
            step("tools", "kernel", code=given["code"], config=given["config"]),
        ]
        return StepGraph(steps).keys["tools"]

    assert key() == key()
    assert len({key(), key(kernel="other"), key(config="b"), key(code=("pipeline.core.locks",))}) == 4


def test_the_order_in_which_inputs_are_named_is_no_input() -> None:
    assert StepGraph([step("a", x="1", y="2")]).keys == StepGraph([step("a", y="2", x="1")]).keys


def test_a_need_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        StepGraph([step("tools", "kernel")])
    assert "unknown: kernel" in caught.value.why


def test_a_cycle_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        StepGraph([step("a", "b"), step("b", "a"), step("c")])
    assert "a cycle: a -> b -> a" in caught.value.why


def test_only_keeps_what_the_asked_for_steps_need_and_their_keys() -> None:
    whole = StepGraph(
        [step("kernel:stock"), step("kernel:toa"), step("tools", "kernel:stock"), step("publish", "tools")]
    )
    assert list(whole.only(["tools"]).steps) == ["kernel:stock", "tools"]
    assert list(whole.only(["kernel"]).steps) == ["kernel:stock", "kernel:toa"]
    assert whole.only(["tools"]).keys["tools"] == whole.keys["tools"]
    with pytest.raises(UsageError, match="step 'kernl': not found; did you mean kernel:"):
        whole.only(["kernl"])
    with pytest.raises(UsageError, match=r"step 'kernl': not found"):
        whole.only(["tools", "kernl"])


def test_a_module_that_is_not_there_is_a_mistake_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        StepGraph([step("kernel", code=("pipeline.packaging.nowhere",))])
