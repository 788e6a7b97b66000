"""The server: draw a cohort, aggregate the updates, apply the result."""
