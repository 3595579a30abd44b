"""Hard negatives: what a base encoder ranks high and nobody labelled."""
