"""The endpoints of heads: fit one from labelled images, add images, list, describe and delete heads.

Knows who may write, and how conditions on versions are written in headers.
"""
