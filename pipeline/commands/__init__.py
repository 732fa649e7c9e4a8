"""Run the verbs: one module per group."""
