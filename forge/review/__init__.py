"""Review before approval: what a person decides about single pairs, and the local page on which it is decided."""
