"""Run the model: choose its device, queue the work, form batches, compute answers.

Knows pixels as arrays, the network and the settings. Knows nothing of HTTP, of image files or of who asks.
"""
