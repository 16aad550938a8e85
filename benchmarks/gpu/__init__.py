"""`make gpu`: what a device does with this code, as one page of Markdown.

It needs torch and what `vitrine` runs on, and neither transformers nor timm nor a network: the checkpoints are random,
in timm's layout. What the tests need beside is used where it is installed.
"""
