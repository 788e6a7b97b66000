"""Scores: token loss, ROUGE-L and exact match of many prompts on many sets, and the trade-off."""
