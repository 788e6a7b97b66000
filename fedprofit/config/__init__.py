"""Configurations: typed sections, files, and messages for what is wrong with them."""
