"""Values of all packages, each in a module of its own, beside those of fedimg.images.

Every package above may import it; it imports nothing of fedimg.
"""
