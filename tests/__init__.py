"""Tests of the real thing: the real model, a real server process on a real port, real clients."""
