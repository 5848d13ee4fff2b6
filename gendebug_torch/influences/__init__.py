"""Which training rows are behind given answers of a network."""

from gendebug_torch.influences.influence import influence as influence

__all__ = ["influence"]
