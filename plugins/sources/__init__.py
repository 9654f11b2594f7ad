"""Sources: one file per family of places that documents come from."""
