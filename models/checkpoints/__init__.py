"""From a checkpoint's tensors to a network that runs; also describes and converts checkpoints.

Does: find the layout, check every tensor, build the network, choose preprocessing and labels, record the reasons.
Knows: every layout, the network.
Does not know: the service.
"""
