"""What a profile adds up: sketches of columns, rows, outcomes, windows of time."""
