"""Word lists for keys, essays and small worlds. Plain common English words, chosen by us; knows nothing of tasks.

The lists do not overlap where a task needs that: a key never occurs in the generated essay, only in its needle.
"""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEYS = _split(
    """amber anchor apple arrow banner basket beacon blanket bracelet brush button camel candle canvas castle cedar
    chimney cobra comet copper cotton cradle cricket crystal curtain daisy dolphin dragon eagle ember engine feather
    flute fossil funnel garlic ginger goblet granite hammer harp hazel heron hornet island jacket jasmine jungle
    kitten lantern laurel leopard lizard locket magnet maple marble melon mitten monkey muffin nickel nutmeg olive
    orchid otter paddle palace parrot pebble pencil pigeon planet plum poppy puzzle quartz rabbit raven ribbon
    saddle sapphire satin shovel spider spoon statue sunset tablet tulip turtle umbrella velvet walnut whistle
    window"""
)

ADJECTIVES = _split(
    """ancient bold broken careful curious dry easy fast fresh golden happy hollow humble late little long narrow
    noble pale polite quiet rich sharp silent slow soft stout strong tall tidy warm wild"""
)

# The generated essay: nobody is named, nothing is numbered.
PEOPLE = _split("""sailor painter doctor soldier dancer merchant traveller mother neighbour captain gardener judge""")
PLACES = _split("harbor village meadow mountain market bridge field kitchen school barn station mill")
THINGS = _split("letter story coat boat cup table clock rope flower soup map wall")
VERBS_MOVE = _split("walks runs returns wanders rides climbs")
VERBS_ACT = _split("finds carries sells buys mends loses cleans keeps")
PREPOSITIONS = _split("to near behind beyond past toward around through")
TIMES = _split("morning evening night winter summer spring autumn dawn")

# Small worlds of the generated question-answering documents.
NAMES = _split(
    """Ada Alma Arlo Bela Carla Cora Dario Edda Emma Enzo Flora Felix Greta Hana Hugo Ida Ines Iris Jana Jonas Karim
    Kira Lara Leon Lena Mara Mila Mina Nico Nils Olga Omar Petra Paula Rita Robin Samir Sara Simon Sofia Tara Theo
    Uma Vera Wanda Xenia Yusuf Zara"""
)
MATERIALS = _split("stone brick wooden iron glass clay paper leather marble straw")
BUILDINGS = _split("house hut inn lodge farm fort hotel palace cottage castle")
COLORS = _split("red blue green yellow white black brown grey pink purple")
ANIMALS = _split("dog cat goat owl fox duck sheep pony frog goose")

# Names of boxes in variable tracking, and coded words: pronounceable, never English text.
BOXES = _split(
    """BAX BIL BUK CEM COG DEX DOR FAB FIM GAV GIK GUM HEV HOL JEK JOM KAF KIB LAX LIF LUK MEX MOL NEB NOF PAB PIX
    RAB RIV RUM SEF SOL TEB TOM VAB VIK WAB WIX ZAB ZIF"""
)
