"""How a batch is parted by length, so that its ORT calls waste little on padding.

A call costs about `call + token * rows * longest row`: a fixed part, and every token of the padded
rectangle. Rows of one length share a call for nothing; rows of neighbouring lengths share one
where their padding costs less than a call of their own would.
"""

from __future__ import annotations

from collections.abc import Sequence

CALL_TOKENS = 4.0  # what a call costs beside its tokens, in tokens; `understudy tune` measures it


def parted(
    lengths: Sequence[int],
    *,
    max_rows: int,
    max_tokens: int,
    call_tokens: float = CALL_TOKENS,
) -> list[list[int]]:
    """Places of rows -> the places that share a call, at the least cost in sum.

    Each part holds at most `max_rows` rows and `max_tokens` padded tokens, but always one row.
    `call_tokens` of 0 never pads. Exact: dynamic programming over the sorted lengths, in which an
    optimal parting is one into runs.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = [0.0]  # of the first n rows, in tokens
    begins = [0]  # where the last part of that parting begins
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        cheapest, chosen = best[end - 1] + call_tokens + longest, end - 1
        widest = min(max_rows, max_tokens // longest)
        for begin in range(end - 2, max(-1, end - 1 - widest), -1):
            if longest - lengths[order[begin]] > call_tokens:
                break  # to part here is cheaper, and so it is for all that are shorter still
            cost = best[begin] + call_tokens + longest * (end - begin)
            if cost <= cheapest:
                cheapest, chosen = cost, begin
        best.append(cheapest)
        begins.append(chosen)
    parts = []
    end = len(order)
    while end:
        parts.append(order[begins[end] : end])
        end = begins[end]
    return parts[::-1]
