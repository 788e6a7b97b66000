"""What every part builds on: errors, files, checksums, seeds, processes."""
