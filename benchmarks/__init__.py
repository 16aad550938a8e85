"""Speed, shown as ratios within one run: these machines are noisy, and absolute figures do not travel."""
