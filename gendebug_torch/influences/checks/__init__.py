"""What the checks of influence read, and the checks themselves, one a file."""
