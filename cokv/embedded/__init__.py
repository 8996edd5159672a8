"""The embedded model: a small Llama-architecture retriever trained by this project, and the recipe that makes it again.

`tokenizer`, `mixture`, `train` and `evaluate` are offline tools. They alone in this package may import the benchmark
room `ruler`, so that the model is trained on the very wording it is examined on; nothing else in `cokv` imports them.
"""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
