"""Annotators: they rank the responses of a prompt, as alternatives to the policy's implicit reward."""
