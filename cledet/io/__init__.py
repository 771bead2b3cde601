"""Files: atomic writes, weights read without running code, run folders, provenance."""
