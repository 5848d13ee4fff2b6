"""Rows in the order in which a person should look at their labels, and the sheet to do it on."""
