"""The graph of steps and its scheduler; how a step builds packages in a sandbox, and what is kept of it."""
