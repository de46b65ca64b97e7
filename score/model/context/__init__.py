"""Context modules: what the scene adds to regions (RAI) and to words (GCA)."""
