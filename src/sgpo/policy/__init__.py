"""A language model seen as a policy: load it, score responses under it, generate responses from it."""
