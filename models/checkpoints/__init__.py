"""From the tensors of a file to a network that runs: recognise, convert, check, build; and describe or convert it.

Knows every layout and the network. Knows nothing of the service.
"""
