"""What answers a client's inputs, made of personal and federated parameters."""
