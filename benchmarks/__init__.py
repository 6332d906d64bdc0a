"""What routing is worth on public data, against simpler ways to route, in one run.

Not a part of the distribution: it trains through `distill`, and what it measures it measures on the
sealed bundles, through the classes that serve them.
"""
