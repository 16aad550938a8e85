"""Where tokens lie: learned position embeddings, rotary positions and relative position biases.

Does: compute, for any grid of patches, what is added to tokens, what rotates queries and keys, and what is added to
attention logits.
Knows: tensors, grids and packing.
Does not know: blocks, the network, checkpoints.
"""
