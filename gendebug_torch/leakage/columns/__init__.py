"""What one column gives away about the target."""
