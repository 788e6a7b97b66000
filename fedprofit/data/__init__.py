"""From texts to clients: sources, partitions, templates, tokens, and the federated data set."""
