"""One run: its stages, checkpoints and folder."""
