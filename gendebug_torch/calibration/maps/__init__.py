"""Maps of logits that recalibrate a network."""
