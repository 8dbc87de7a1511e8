"""The security audit: rules with their sources, what was seen of each, waivers, and the score."""
