"""What a run would do, and everything that can be checked before it starts."""
