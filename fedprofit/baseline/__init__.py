"""What federated prompts are compared with and must be trained for it, one file each."""
