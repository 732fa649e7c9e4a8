"""The recipe of kernels and tools out of the upstream tarballs that Debian ships."""
