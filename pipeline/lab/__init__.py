"""The lab: boots what was built in QEMU, sends real traffic through it, and reports what was seen."""
