"""How packages come to be: the plan and its runner, spec and configuration files, one module per recipe."""
