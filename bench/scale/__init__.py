"""What grows with size, and what must not: the parts of ``python bench/scaling.py``."""
