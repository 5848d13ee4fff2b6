"""What learning curves say: regime, inflection, notes, early stopping."""
