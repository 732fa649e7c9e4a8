"""What the host can do: its programs, its KVM, and the doctor that tells an operator about both.

Knows nothing of lines, sources or builds. Answers are facts about this machine, at this boot.
"""
