"""What patch tokens say, as numbers and colours: principal components over one image or many, and cosines of patches.

Knows arrays only: no network, no image files, no HTTP.
"""
