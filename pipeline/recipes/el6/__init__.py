"""Build RHEL 6 kernels from their source package, with the tools of the FULLNAT patches."""
