"""Where the model meets the data: the runner, its shards on disk, and the formats networks come
in.
"""
