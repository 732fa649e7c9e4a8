"""Define how a line's packages are made: one class per recipe, named in the registry."""
