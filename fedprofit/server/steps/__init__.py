"""Aggregation steps: what happens to the clients' updates on their way into the server's parameters."""
