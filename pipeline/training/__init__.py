"""Examples to weights: losses on plain tensors, masks, a finite sampler, and the Ray Train loop around them."""
