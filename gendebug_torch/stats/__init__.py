"""Statistics that more than one topic needs; tensors in, tensors out."""
