"""``warmstart check``: the first steps of the procedure, each with a verdict."""
