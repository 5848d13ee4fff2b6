"""What each column by itself reveals of the target."""
