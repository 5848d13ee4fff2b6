"""How many values of a regression target are wrong, and which rows."""
