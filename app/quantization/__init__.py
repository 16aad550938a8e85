"""`vitrine quantize`: a checkpoint and a folder of pictures to a checkpoint of 8 bits, and what it costs.

Knows folders, pictures and engines. How a network is quantised, `models/quantization` knows.
"""
