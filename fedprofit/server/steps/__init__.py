"""Aggregation steps between the clients' updates and the server's parameters."""
