"""`make gpu`: what a device does with this code, as one page of Markdown.

It needs torch, what `vitrine` runs on, httpx, uvloop and pytest, and no network: the checkpoints are random, in timm's
layout. Parity needs timm and transformers too; without them that section says so and fails.
"""
