"""Local training: the vectorized solver, its sequential reference, and the client optimizers."""
