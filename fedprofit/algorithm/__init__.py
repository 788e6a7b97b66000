"""Federated algorithms, one file a paper."""
