"""A run on disk: stages, shards, records, the processes that share them, and progress on the terminal."""
