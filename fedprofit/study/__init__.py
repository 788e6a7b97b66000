"""A run from configuration to results: the loop, its checkpoints, its folder."""
