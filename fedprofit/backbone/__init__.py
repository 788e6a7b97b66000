"""Fetch and load a frozen language model, and compute it for many clients in one batch."""
