"""From a federated prompt to a client's own: fine-tuning, L2 pull, interpolation."""
