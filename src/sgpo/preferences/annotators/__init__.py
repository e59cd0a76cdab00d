"""Who ranks the responses of a prompt, beside the policy's own implicit reward."""
