"""How the tables came to be, step by step.

Steps only go forward: one back would delete what is kept. A step is never changed once released.
"""
