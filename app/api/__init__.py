"""What a client can ask, one file for each; each a straight line."""
