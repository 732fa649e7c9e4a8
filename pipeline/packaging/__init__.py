"""Plan and schedule steps, build packages in a sandbox, and record the results."""
