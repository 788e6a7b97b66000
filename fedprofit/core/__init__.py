"""Shared utilities: errors, files, checksums, seeds, processes."""
