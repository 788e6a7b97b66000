"""What a run or study found: curves, fronts, claims, differences, and what to ship."""
