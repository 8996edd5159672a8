"""Builds the embedded tokenizer: whole words, numbers in pairs of digits, bytes for everything else. Lossless on any text.

A word-level vocabulary keeps one token per key word (so retrieval circuits stay small); bytes make any other text encodable. It is a
byte-level BPE without merges: `ignore_merges` looks whole pieces up in the vocabulary, and what is not there falls apart into bytes.
"""

import argparse
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from cokv.embedded import WEIGHTS
from ruler import words
from ruler.generate import draft
from ruler.tasks import TASKS

SPECIALS = ("<pad>", "<bos>", "<eos>")
# Words around which other small tasks can be written without a new vocabulary.
RESERVE = tuple(
    """I you he she it we they my your his her its our their me him them this that these those who what where when why how which
    is are was were be been has have had do does did will would can could should may must not no yes and or but if then else so
    because with without from into onto over under about after before between during until of in on at by for to as than very too
    also only just more most less least first second third last next other another same each every all some any many few one two
    three four five six seven eight nine ten Paragraph paragraph Passage passage Document document Section section Dialogue dialogue
    Summary summary Question question Answer answer Type type Class class Label label Title title Text text Article article News
    news Report report Meeting meeting Story Query Code code Line line Function function file def return import self print None True
    False for while if else elif in not list dict str int float len range value values name names key keys index count total size
    number numbers person people place places thing things animal color city country food sport music science history time date
    year month day week Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August
    September October November December says said asks asked tells told likes liked wants wanted goes went comes came makes made
    takes took gives gave sees saw knows knew thinks thought works worked lives lived reads wrote writes starts ends called born
    died moved built sold bought found lost won met visited abstract unknown unanswerable speaker project team plan budget bill law
    company government study method model data result results paper system language word sentence character description location
    entity abbreviation human numeric""".split()
)
PATTERN = r" ?[A-Za-z]+| ?[0-9]{2}| ?[0-9]| ?[^\sA-Za-z0-9]|\n|\s"


def corpus(drafts_per_task: int, seed: int) -> Counter[str]:
    """Pieces of generated prompts and answers, counted."""
    rng, pieces = random.Random(seed), Counter[str]()
    for task in TASKS["mini"].values():
        for _ in range(drafts_per_task):
            made = draft(task, rng.randrange(20, 60), rng)
            pieces.update(re.findall(PATTERN, made.prompt + made.gold))
    return pieces


def build() -> Tokenizer:
    """The tokenizer: specials, 256 bytes, numbers, then words in a fixed order."""
    lists = (words.KEYS, words.ADJECTIVES, words.PEOPLE, words.PLACES, words.THINGS, words.VERBS_MOVE, words.VERBS_ACT)
    lists += (words.PREPOSITIONS, words.TIMES, words.NAMES, words.MATERIALS, words.BUILDINGS, words.COLORS, words.ANIMALS)
    spaced = [f" {w}" for group in (*lists, words.BOXES, RESERVE) for w in group]
    seen = sorted(piece for piece, count in corpus(40, seed=0).items() if count >= 20)
    numbers = [f"{i:02d}" for i in range(100)] + [f" {i:02d}" for i in range(100)] + [f" {i}" for i in range(10)]
    starts = sorted({*words.NAMES, *words.BOXES})  # at the start of a line
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [byte_level.pre_tokenize_str(p)[0][0] for p in (*numbers, *spaced, *seen, *starts)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys((*SPECIALS, *alphabet, *pieces)))}

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS / "tokenizer.json")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = build()
    tokenizer.save(str(args.out))
    print(f"{args.out}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
