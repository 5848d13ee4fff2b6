"""When rows were recorded, and when their labels became known."""
