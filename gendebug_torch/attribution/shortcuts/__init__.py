"""What carries a class: parts of inputs put into other inputs, and tokens put into texts."""
