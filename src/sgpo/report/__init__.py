"""The report of a run: a run directory in, one HTML page out. Imports no torch and needs no network."""
