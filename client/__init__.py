"""What a relying party installs: trust policy, verifier, the host's side of the channel, keys."""
