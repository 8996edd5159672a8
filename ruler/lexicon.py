"""Word lists of the `official` preset: adjective-noun keys, list words, people. Plain English, chosen by us; knows
nothing of tasks.

The official generator takes its words from the wonderwords package and a list of English words. Differs: these lists
are ours, so that nothing is downloaded; a prompt of 128k tokens needs enough distinct words (see `PAIRS`). The lists
of `words.py` are apart: they are as small as the embedded model's vocabulary.
"""

import random

from ruler import words


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _split(
    """able active aged agile alert ancient angry ashen azure bare bitter bland blunt bold brave brief bright brisk
    broad broken bumpy busy calm careful cheap cheerful chilly civil clean clear clever clumsy coarse cold common cosmic
    crafty crisp crooked cruel curious curly damp daring dark deep delicate dense dim direct distant dizzy double dreamy
    dry dusty eager early earnest easy elegant empty entire exact exotic fair faint faithful famous fancy fearless
    fertile fierce firm flat fluffy foggy foreign formal fragile fresh friendly frosty frozen gentle giant glad gloomy
    golden graceful grand grateful gray greedy grim handy happy hardy harsh hasty hazy healthy heavy hidden hollow
    honest humble humid hungry icy idle jolly joyful keen kind large late lavish lazy lean level light lively local
    lonely long loud lovely loyal lucky massive mellow merry mighty mild misty modern modest muddy narrow neat nervous
    nimble noble noisy normal novel obvious old open orderly outer pale patient peaceful perfect plain playful pleasant
    polite precise pretty prime proud pure quick quiet rapid rare raw ready regal remote rich rigid robust rocky rough
    round royal rural rusty sandy scenic secret serene severe shaggy sharp shiny short shy silent silky simple sleepy
    slender slim slow smooth sober soft solar solemn solid sour spare sparse special spicy square stable steady steep
    stern sticky still stormy stout strange strict strong stubborn sturdy subtle sudden sunny swift tall tame tart tasty
    tender tense thick thin thirsty thorough tidy tight tiny tired tough tranquil tricky true upper urban useful usual
    vague vast vital vivid warm weary wet whole wide wild wise witty wooden young zesty"""
)

NOUNS = _split(
    """acorn airport alley almond anchor ankle antler anvil apron arena armor atlas attic avenue axle
    badge bakery balcony balloon bamboo banjo bank barge barn barrel basin basket beach beacon beaver bell bench berry
    bicycle blanket blossom boat bonnet boot border bottle boulder bowl bracket branch brick bridge broom bucket buckle
    butter button cabbage cabin cable cactus camera canal candle canoe canyon captain caravan cargo carpet carriage
    carrot castle cavern cedar cellar chain chair chalk chapel chariot cherry chest chimney circle circus citadel clay
    cliff cloak clock cloud clover coach coast cobbler coffee collar column comet compass copper coral corner cottage
    cotton counter cousin cradle crane crater crayon creek cricket crown crystal cupboard curtain cushion dagger daisy
    dancer daughter deer desert desk dial diamond dinner dock dolphin donkey door dragon drawer drum eagle easel echo
    elbow elephant elm ember emerald engine envelope falcon farmer feather fence fern ferry festival fiddle field finger
    flag flame flask flood flour flower flute forest fork fortress fossil fountain fox frame freight frog fruit funnel
    furnace galaxy garden garlic gate gazelle geyser ginger giraffe glacier glass globe glove goat goblet gorge granite
    grape grass gravel grove guitar gull hammer hammock harbor harness harp hatch hazel heart hedge helmet herb hermit
    heron hill hinge honey hood horizon hornet horse hotel house hunter husk igloo inlet insect iris iron island ivory
    jacket jaguar jar jelly jewel jigsaw journal judge jungle kettle key kite kitten knight ladder lagoon lake lamp
    lance lantern laurel lawn leaf leather ledge lemon leopard letter lever library lighthouse lily linen lion lizard
    lobster locket lodge lotus lumber lynx machine magnet mallet mango mantle maple marble margin market marsh mask
    mason mast meadow medal melon mermaid meteor mill mineral mirror mitten moat monkey monument moon moose morning
    mosaic moth motor mountain muffin museum mushroom mustard napkin nectar needle nest nickel notebook nutmeg oak oar
    oasis oat ocean office olive onion opal orbit orchard orchid organ osprey ostrich otter oven owl oyster paddle
    pageant palace palm pancake panther paper parade parcel parrot parsley pasture path pavement peach pearl pebble
    pedal pelican pencil pendant penguin pepper piano pickle pigeon pillar pillow pilot pine pistol pitcher planet plank
    plate platform plaza plow plum pocket poem pond poplar poppy porch portrait potato pottery prairie prism pulley
    pumpkin puppet puzzle pyramid quarry quartz quilt quiver rabbit raccoon radar radish raft railway rain rapids raven
    reef ribbon riddle ridge ring river road robin rocket roof root rope rose rudder ruler saddle saffron sail salmon
    sapphire satchel saucer scarf school scroll sculptor seal seed shadow shark sheep shelf shell shepherd shield ship
    shoe shore shovel shrub silk silver skate sled sleeve slipper smoke snail snow sofa soil spark sparrow spear spider
    spindle spiral sponge spoon spring sprout squash squirrel stable stadium stair stamp star statue steam stem stone
    stool storm stove straw stream street string sugar summit sundial sunset swallow swamp swan sweater sword table
    tablet tailor tapestry tavern teapot temple tent terrace theater thicket thimble thistle thread throne thunder tide
    tiger timber toast tomato torch tower town tractor trail train treasure tree trellis trophy trout trumpet tulip
    tundra tunnel turbine turnip turtle tusk umbrella valley vane vase vault velvet village vine violet violin viper
    volcano voyage wagon wall wallet walnut walrus water waterfall weasel weaver whale wharf wheat wheel whisker whistle
    wicker willow window winter wizard wolf wool workshop wreath yacht yarn zebra zipper"""
)

GIVEN_NAMES = _split(
    """Agnes Albert Alice Amelia Andrei Anita Arthur Astrid Axel Beatrice Benito Bianca Boris
    Brenda Carmen Cecil Clara Claude Conrad Daisy Damian Daphne Dmitri Doris Edgar Edith Elena Emil Erika Esther Eugene
    Faye Fergus Fiona Frida George Gloria Gustav Hazel Hector Helen Herman Hilda Homer Imogen Irving Ivy Jasper Joan
    Joseph Judith Karl Kathleen Konrad Laura Lewis Linus Lola Lucas Lydia Magnus Marta Maxim Melvin Mildred Monica Naomi
    Nathan Nelly Nigel Norman Odette Oliver Opal Orson Otto Pablo Pearl Percy Phoebe Quentin Ralph Ramona Raymond Regina
    Roland Rosalind Rufus Ruth Samson Serena Silas Sonia Stefan Sybil Tamara Thelma Tobias Ursula Valentin Verity Victor
    Violet Wallace Wilma Winston Yvonne"""
)

WORDS: tuple[str, ...] = tuple(sorted({*ADJECTIVES, *NOUNS}))
PAIRS = len(ADJECTIVES) * len(NOUNS)  # distinct adjective-noun words
PEOPLE = len(GIVEN_NAMES) * len(NOUNS)  # distinct full names


def pair(rng: random.Random) -> str:
    """An adjective and a noun with a hyphen, as the official keys look."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def person(rng: random.Random) -> str:
    """A given name and a surname."""
    return f"{rng.choice(GIVEN_NAMES)} {rng.choice(NOUNS).capitalize()}"


def invented(letters: int, alphabet: str, rng: random.Random) -> str:
    """So many random letters, as the official generator draws its coded words and box names; a BOXES word for 0."""
    return "".join(rng.choice(alphabet) for _ in range(letters)) if letters else rng.choice(words.BOXES)
