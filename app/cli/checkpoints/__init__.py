"""The commands that read one checkpoint and do not answer pictures: show it, convert it, quantise it."""
