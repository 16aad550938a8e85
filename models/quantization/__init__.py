"""A network of 8 bits from one of float32, and its file.

Does: observe what layers read, move large channels from inputs to weights, round weights, leave out the layers whose
rounding does the most harm; write and read the result.
Knows: the network, and what a checkpoint is in the network's terms.
Does not know: pictures, settings, or how other checkpoints are read.
"""
