"""Examine the host: its programs, container engines, KVM, and all of it in the doctor's report."""
