"""`warmstart tune`: the search for every arm's recipe, with equal effort, on validation."""
