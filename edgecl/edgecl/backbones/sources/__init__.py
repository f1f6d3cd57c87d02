"""Where the weights of a backbone come from."""
