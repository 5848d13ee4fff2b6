"""What a suite says, its file, and how it grows."""
