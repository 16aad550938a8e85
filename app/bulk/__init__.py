"""Embed or classify millions of files on this machine into one table, and resume after an interruption.

Knows files, tables and resumable runs. It answers images through `app/service`, like the HTTP API.
"""
