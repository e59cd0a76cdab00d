"""Where a run lives on disk: stages, shards, the processes that share them, and what is shown meanwhile."""
