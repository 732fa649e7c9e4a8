"""Boot what was built in QEMU, send real traffic through it, and report what was seen."""
