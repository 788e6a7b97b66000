"""Peer libraries with the same training task, configured as their documentation recommends."""
