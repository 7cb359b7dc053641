"""Statistics of one batch: a layer's signals, their moments, and Kronecker factors."""
