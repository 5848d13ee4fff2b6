"""The smallest changes of inputs that a network answers otherwise."""
