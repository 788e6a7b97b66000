"""Partitions: which client owns which row."""
