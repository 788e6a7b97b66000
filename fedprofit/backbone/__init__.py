"""The frozen language model: fetched, loaded, and computed for many clients at once."""
