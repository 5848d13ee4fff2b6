"""What kind of change it is, and in which column."""
