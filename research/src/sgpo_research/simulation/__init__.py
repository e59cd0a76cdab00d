"""The loop of `sgpo.rounds` on arrays: log-linear policies, many trials at once."""
