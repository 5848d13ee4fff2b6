"""How surprising a sum over a slice is."""
