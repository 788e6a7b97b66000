"""Personalization methods, one module each."""
