"""A feature repo of one's own: what the command `init` writes, from a look at the user's files."""
