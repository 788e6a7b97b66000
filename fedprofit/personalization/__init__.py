"""From a federated prompt to a client's own."""
