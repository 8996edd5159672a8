"""Word lists for keys, essays and small worlds. Plain common English words, chosen by us; knows nothing of tasks.

The lists do not overlap where a task needs that: a key never occurs in the generated essay, so a needle can only be found at its key.
"""

KEYS = tuple(
    """amber anchor anvil apple arrow badge banner barrel basket beacon beetle blanket bottle bracelet brush bucket button cabin
    camel candle canoe canvas carpet castle cedar cherry chimney clover cobra comet compass copper coral cotton cradle crater cricket
    crown crystal curtain dagger daisy diamond dolphin dragon drum eagle elbow ember engine falcon feather fiddle flute fossil fountain
    funnel garlic gazelle ginger glacier goblet granite guitar hammer hammock harp hazel helmet heron honey hornet island ivory jacket
    jaguar jasmine jungle kettle kitten ladder lantern laurel lemon leopard lilac lizard locket lotus magnet mango maple marble medal
    melon mirror mitten monkey mosaic muffin needle nickel nutmeg oasis olive onion orchid otter oyster paddle palace panther parrot
    peach pebble pencil pepper pigeon pillow planet plum pocket poppy pumpkin puzzle quartz quilt rabbit radish raven ribbon rocket
    saddle salmon sapphire satin scarf shovel silver spider spoon squirrel statue sugar sunset tablet tiger tulip tunnel turtle
    umbrella vanilla velvet violin walnut whistle willow window zebra""".split()
)

ADJECTIVES = tuple(
    """ancient bitter bold brave bright broken calm careful clever cold curious dark deep dry early easy empty famous fast fierce
    fine fresh gentle golden grand great happy heavy hidden hollow honest humble kind large late lazy light little lonely long loud
    lucky narrow neat new noble old pale patient plain polite proud quick quiet rare rich rough round sharp short shy silent simple
    slow small smooth soft steady still stout strange strong sweet swift tall tame thin tidy tiny warm weary wide wild wise young""".split()
)

# The generated essay: nobody is named, nothing is numbered.
PEOPLE = tuple(
    """sailor farmer painter teacher doctor singer soldier hunter dancer writer merchant stranger traveller child mother father
    neighbour shepherd captain miller gardener student judge servant""".split()
)
PLACES = tuple(
    """harbor forest village valley meadow garden mountain river market tower bridge road field shore kitchen library school church
    barn orchard station square mill cellar""".split()
)
THINGS = tuple(
    """letter song story book coat horse boat wagon cup chair table lamp clock ring rope stone flower bread soup coin map door wall
    fire""".split()
)
VERBS_MOVE = tuple("walks runs travels returns hurries wanders rides sails climbs marches".split())
VERBS_ACT = tuple("finds carries paints sells buys hides mends watches loses cleans opens keeps follows".split())
PREPOSITIONS = tuple("to near behind beyond past toward around through".split())
TIMES = tuple("morning evening night winter summer spring autumn dawn".split())

# Small worlds of the generated question-answering documents.
NAMES = tuple(
    """Ada Alma Anton Arlo Bela Bruno Carla Cora Dana Dario Edda Elias Emma Enzo Fiona Flora Felix Gita Greta Hana Henry Hugo Ida
    Igor Ines Iris Ivan Jana Jonas Julia Karim Kira Klara Lara Leon Liam Lena Mara Marco Mila Mina Nadia Nico Nils Nora Olga Omar
    Oscar Petra Paula Rafael Rita Robin Rosa Samir Sara Selma Simon Sofia Stella Tara Theo Tomas Uma Vera Viktor Wanda Xenia Yara
    Yusuf Zara Zeno""".split()
)
MATERIALS = tuple("stone brick wooden iron glass clay paper leather marble straw".split())
BUILDINGS = tuple("house hut inn lodge farm fort hotel palace cottage castle".split())
COLORS = tuple("red blue green yellow white black brown grey pink purple".split())
ANIMALS = tuple("dog cat goat owl fox duck sheep pony frog goose".split())

# Names of boxes in variable tracking, and coded words: pronounceable, never English text.
BOXES = tuple(
    """BAX BEV BIL BOM BUK CAZ CEM CIV COG CUL DAF DEX DIB DOR DUM FAB FEK FIM FOL FUZ GAV GEB GIK GOX GUM HAB HEV HIX HOL HUF JAB
    JEK JIL JOM JUX KAF KEM KIB KOL KUV LAX LEB LIF LOM LUK MAB MEX MIV MOL MUG NAX NEB NIK NOF NUV PAB PEK PIX POM PUL RAB REK
    RIV ROX RUM SAB SEF SIK SOL SUV TAX TEB TIF TOM TUK VAB VEX VIK VOM VUL WAB WEK WIX WOL ZAB ZEK ZIF ZOM ZUL""".split()
)
