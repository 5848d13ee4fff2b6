"""Pictures that are in two splits."""
