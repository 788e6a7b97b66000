"""Configurations: typed sections, YAML files, and error messages."""
