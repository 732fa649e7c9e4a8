"""How many objects a kernel tree compiles, as its Makefiles list them."""

from __future__ import annotations

import pytest

from pipeline.formats import kbuild

TREE = {
    "Makefile": "init-y := init/\ncore-y := kernel/ # always\nlibs-y := lib/\nobjs-y := none/\n",
    "arch/x86/Makefile": "core-y += arch/x86/\ndrivers-$(CONFIG_PCI) += arch/x86/pci/\n",
    "init/Makefile": "obj-y := main.o version.o\nmounts-y := do_mounts.o\nobj-$(CONFIG_BLOCK) += \\\n  mounts.o\n",
    "kernel/Makefile": (
        "obj-y += fork.o sched/ fork.o\nobj-$(CONFIG_SMP) += smp.o\nobj-$(CONFIG_AUDIT) += audit.o\n"
        "obj-$(subst m,y,$(CONFIG_IP_VS)) += glue.o\n"
        "ifdef CONFIG_SMP\nobj-y += stop.o\nelse\nobj-y += up.o\nendif\n"
        "ifeq ($(CONFIG_AUDIT),y)\nobj-y += a1.o\nobj-y += a2.o\nendif\n"
    ),
    "kernel/sched/Kbuild": "obj-y += core.o fair.o\n",
    "kernel/sched/Makefile": "obj-y += not_read.o\n",
    "lib/Makefile": "lib-y := string.o\n",
    "arch/x86/Kbuild": "obj-y += kernel/\n",
    "arch/x86/kernel/Makefile": "obj-$(CONFIG_IP_VS) += ip_vs.o\nip_vs-y := conn.o core.o\nip_vs-objs += ctl.o\n",
    "arch/x86/pci/Makefile": "obj-y += pci_$(BITS).o\n",
}


@pytest.mark.parametrize(
    ("configuration", "objects"),
    [
        # init 2, kernel: fork, up, core, fair; lib 1
        ({}, 2 + 4 + 1),
        ({"BLOCK": "y"}, 2 + 1 + 4 + 1),
        # smp.o, and stop.o in place of up.o
        ({"SMP": "y"}, 2 + 5 + 1),
        ({"AUDIT": "y"}, 2 + 4 + 3 + 1),
        # a module is compiled too: three parts, and the glue that is built in
        ({"IP_VS": "m"}, 2 + 4 + 1 + 1 + 3),
        ({"PCI": "y"}, 2 + 4 + 1 + 1),
    ],
)
def test_the_lists_of_a_tree_are_followed_as_kbuild_follows_them(configuration: dict[str, str], objects: int) -> None:
    assert kbuild.count_objects(lambda path: TREE.get(path, ""), configuration) == objects


def test_a_directory_that_lists_itself_is_counted_once() -> None:
    tree = {"Makefile": "core-y := a/\n", "a/Makefile": "obj-y += one.o b/\n", "a/b/Makefile": "obj-y += two.o ../b/\n"}
    assert kbuild.count_objects(lambda path: tree.get(path, ""), {}) == 2


def test_a_tree_of_strangers_ends() -> None:
    assert kbuild.count_objects(lambda path: "obj-y += x.o deeper/\ncore-y := a/\n", {}) > 0
