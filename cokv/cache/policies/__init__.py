"""What happens to a row's cache while it decodes: policies, each a frozen dataclass, and what one must offer.

base.py          Policy: what it does in words, what it needs of the prompt, how it is bound to a budget
growth.py        Grow; EvictOldest (StreamingLLM, DuoAttention's streaming heads)
protocol.py      eviction by attention: what such a rule must say. The rules themselves: cokv/methods/policies
compensate.py    RazorAttention's compensation token
quantize.py, packing.py, prune_channels.py, recall.py   tokens in fewer bits, keys of fewer channels, pages elsewhere
"""
