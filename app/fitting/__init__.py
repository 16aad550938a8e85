"""`vitrine fit`: labelled pictures, or vectors that were embedded before, to the file of a head and a report.

Knows folders, tables and files. The pictures are embedded as `vitrine embed` does it; `heads` fits the head.
"""
