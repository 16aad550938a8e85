"""Methods of fitting: labelled vectors to a linear classifier, with its answers to each example that is left out."""
