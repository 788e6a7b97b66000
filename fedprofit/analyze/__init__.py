"""Analyses of a run or study: curves, fronts, claims, differences, and recommended settings."""
