"""Where the model meets the data: the runner, its shards on disk, formats of networks."""
