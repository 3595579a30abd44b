"""Hard negatives: what an encoder ranks high and nobody labelled."""
