"""Tables for a person to fill in: their lines, and their files."""
