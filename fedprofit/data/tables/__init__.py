"""Conversion of tables of text to the pool: formats, columns, and errors in their rows."""
