"""What the server does: draw a cohort, average what comes back, apply it."""
