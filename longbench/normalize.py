"""What the LongBench metrics do to text before they compare it: normalization and Chinese word segmentation.

Paper: LongBench, arXiv 2308.14508. Released code: THUDM/LongBench, `metrics.py`.

The segmenter is a private `jieba` instance. The shared one can be changed by any import in the process (user
dictionaries), and jieba's on-disk cache is trusted without looking at the dictionary's version; both move scores.
"""

from __future__ import annotations

import re
import string
import threading
import warnings
from functools import lru_cache
from typing import Any

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ASCII_PUNCTUATION = frozenset(string.punctuation)
# First and last code point of each run of the 75 Chinese (and typographic) marks that the official list names.
_CHINESE_RUNS = (
    (0x002E, 0x002E),
    (0x2013, 0x2014),
    (0x2018, 0x2019),
    (0x201B, 0x201F),
    (0x2026, 0x2027),
    (0x3001, 0x3003),
    (0x300B, 0x3011),
    (0x3014, 0x301F),
    (0x3030, 0x3030),
    (0x303E, 0x303F),
    (0xFE4F, 0xFE4F),
    (0xFF01, 0xFF0D),
    (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF64),
)
_ALL_PUNCTUATION = _ASCII_PUNCTUATION | {chr(point) for low, high in _CHINESE_RUNS for point in range(low, high + 1)}

_building = threading.Lock()


def normalize_answer(s: str) -> str:
    """Lower-case, drop ASCII punctuation, blank out English articles, squeeze white space; in this order."""
    kept = "".join(char for char in s.lower() if char not in _ASCII_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", kept).split())


def normalize_zh_answer(s: str) -> str:
    """Lower-case, drop ASCII and Chinese punctuation, drop all white space."""
    kept = "".join(char for char in s.lower() if char not in _ALL_PUNCTUATION)
    return "".join(kept.split())


@lru_cache(maxsize=1)
def _segmenter() -> Any:
    """A jieba tokenizer over jieba's own dictionary, built from the dictionary itself (about a second, once)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own: old escapes in its regular expressions, pkg_resources
        import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def chinese_words(text: str) -> list[str]:
    """jieba's accurate mode with its hidden Markov model for unknown words: the official `cut(text, cut_all=False)`."""
    with _building:
        segmenter = _segmenter()
    return list(segmenter.cut(text, cut_all=False, HMM=True))
