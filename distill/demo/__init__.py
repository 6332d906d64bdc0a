"""The ticket world: a made-up shop with a wallet, its customers, and what they write.

Everything here is drawn from a hand-written grammar and a seed. No real person wrote any of it.
"""
