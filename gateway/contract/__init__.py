"""What the online and the offline side hand each other, and how both read it.

A leaf: it needs the standard library, numpy, tokenizers and pydantic, and of ours the errors.
"""
