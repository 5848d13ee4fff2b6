"""What serving code does to inputs, found by doing it to rows of validation."""
