"""One flat script a model: what is trained, with every number and its reason."""
