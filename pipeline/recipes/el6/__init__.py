"""The recipe of RHEL 6 kernels out of their source package, with the tools of the FULLNAT patches."""
