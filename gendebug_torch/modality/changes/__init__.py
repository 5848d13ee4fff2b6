"""What serving code does wrong to inputs, as named transformations of a batch."""
