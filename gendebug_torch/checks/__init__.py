"""What a check is, what it says, and how its evidence is drawn."""
