"""The loop of SSAPO: from seed pairs to an aligned model, stage by stage on disk."""
