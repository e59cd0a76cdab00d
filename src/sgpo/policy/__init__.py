"""A language model as a policy: load it, score responses, embed prompts, generate responses."""
