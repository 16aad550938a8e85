"""Which published networks are served, and whether their answers equal their originals': docs/coverage.md."""
