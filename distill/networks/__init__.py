"""Torch modules that a teacher or a student can be made of."""
