"""Boot built packages in QEMU, send traffic through them, and report the results."""
