"""How far an explanation can be believed."""
