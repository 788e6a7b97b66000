"""Reports of runs and studies: tables, pictures and an HTML page."""
