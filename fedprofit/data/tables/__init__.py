"""How tables of text become the pool: formats, columns, and what is found wrong with their rows."""
