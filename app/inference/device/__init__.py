"""The device: which one it is, what differs between devices, and the memory of the process beside it."""
