"""What the host can do: its programs, its engines, its KVM, and the doctor that reports all of it."""
