"""Vocabulary of the generated worlds, English and Chinese. Common words, chosen by us; knows nothing of tasks."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEYS = _split(
    """amber anchor apple arrow banner basket beacon blanket bracelet brush button camel candle canvas castle cedar
    chimney cobra comet copper cotton cradle cricket crystal curtain daisy dolphin dragon eagle ember engine feather
    flute fossil funnel garlic ginger goblet granite hammer harp hazel heron hornet island jacket jasmine jungle
    kitten lantern laurel leopard lizard locket magnet maple marble melon mitten monkey muffin nickel nutmeg olive
    orchid otter paddle palace parrot pebble pencil pigeon planet plum poppy puzzle quartz rabbit raven ribbon
    saddle sapphire satin shovel spider spoon statue sunset tablet tulip turtle umbrella velvet walnut whistle"""
)
NAMES = _split(
    """Ada Alma Arlo Bela Carla Cora Dario Edda Emma Enzo Flora Felix Greta Hana Hugo Ida Ines Iris Jana Jonas Karim
    Kira Lara Leon Lena Mara Mila Mina Nico Nils Olga Omar Petra Paula Rita Robin Samir Sara Simon Sofia Tara Theo
    Uma Vera Wanda Xenia Yusuf Zara"""
)
ADJECTIVES = _split(
    """ancient bold broken careful curious dry easy fast fresh golden happy hollow humble late little long narrow
    noble pale polite quiet rich sharp silent slow soft stout strong tall tidy warm wild"""
)
PEOPLE = _split("sailor painter doctor soldier dancer merchant traveller mother neighbour captain gardener judge")
PLACES = _split("harbor village meadow mountain market bridge field kitchen school barn station mill")
THINGS = _split("letter story coat boat cup table clock rope flower soup map wall")
COLORS = _split("red blue green yellow white black brown grey pink purple")
MATERIALS = _split("stone brick wooden iron glass clay paper leather marble straw")
BUILDINGS = _split("house hut inn lodge farm fort hotel palace cottage castle")
TIMES = _split("morning evening night winter summer spring autumn dawn")
VERBS_MOVE = _split("walks runs returns wanders rides climbs")
VERBS_ACT = _split("finds carries sells buys mends loses cleans keeps")
DEEDS = _split("find carry sell buy mend clean paint keep")
PREPOSITIONS = _split("to near behind beyond past toward around through")
CLASSES = _split("Animal City Disease Event Food Language Plant Sport Tool Vehicle")

# Each character is one piece of the tokenizer.
ZH_SURNAMES = tuple("王李张刘陈杨黄赵吴周徐孙马朱胡林")
ZH_GIVEN = tuple("明华强军平洋勇杰涛超兰英玲燕芳梅")
ZH_GOODS = tuple(f"{a}{b}" for a in "红白青黑金银" for b in "茶米布纸瓜豆酒盐")
ZH_DIRECTIONS = tuple("东南西北上下前后")
ZH_PLACES = tuple("山河村城桥湖海门")
ZH_DEEDS = ("修", "买", "卖", "找", "洗", "搬")
ZH_WEATHER = ("今天", "昨天", "早上", "晚上")
ZH_CLASSES = ("体育", "教育", "交通", "财经", "医药", "农业")
ZH_NUMBERS = tuple("一二三四五六")
