"""The story of a student that comes, falls and comes back, played on a real gateway.

Its world is the demo's (distill/demo); the demo knows nothing of it.
"""
