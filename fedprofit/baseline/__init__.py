"""Baselines for federated prompts that require training, one module each."""
