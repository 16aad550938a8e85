"""Measure speed as ratios within one run: machines are noisy, and absolute figures do not carry over to others."""
