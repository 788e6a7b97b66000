"""Predictors, which answer a client's inputs with personal and federated parameters."""
