"""What kernels and the words people type say of a CT series: sharp or soft, with contrast agent or without.

Kernels are facts that scanners write. Descriptions are typed by people, in their own language and short, so
that they only break ties between series whose kernels and tags are alike.
"""

from __future__ import annotations

import re
import unicodedata

SHARP_KERNEL = re.compile(
    r"[A-Z][a-z]?[5-9]\d[a-z]*|FC[358]\d|Y[A-E]|[DEL]|(?i:(HD ?)?(BONE|LUNG|EDGE|ULTRA)\w*|\w*SHARP\w*)"
)
"""Siemens from 50 (B60s, Hr64h), Canon FC30, FC50 and FC80, Philips YA to YE, D, E and L, GE by name."""

SOFT_KERNEL = re.compile(
    r"[A-Z][a-z]?[0-4]\d[a-z]*|FC[01246]\d|U[A-C]|[ABC]|(?i:(HD ?)?(STANDARD|STND|STD|BRAIN)\w*|\w*SOFT\w*)"
)

BONE_WORDS = re.compile(
    r"\b(bones?|lungs?|edge|sharp|os|oss(os?|eas?|eos?|a|eux|euses?)|osea|oseo|hueso|knochen\w*|felsenbein\w*"
    r"|bot(ten)?|bein|ben|kost(i|ny|ni|na)?|kosc\w*|luu|kemik|csont|pulmon\w*|poumons?|polmon\w*|lunge\w*"
    r"|petrous|temporal bones?)\b|кост|骨|뼈|골",
    re.I,
)

PROJECTION_TYPE = re.compile(
    r"\bM(IN|AX)?_?IP\b|PROJECTION|VOLUME_RENDER|SCREEN ?S(AVE|HOT)|\bMAXIMUM\b", re.I
)
PROJECTION_WORDS = re.compile(
    r"(?<!\bfor )(?<!\bfur )(?<!\bpour )(?<!\bper )(?<!\bpara )(?<!\bvoor )(?<!\btil )\bm(in)?ip\b"
    r"|screen ?s(ave|hot)|dose (report|info)|patient protocol|scout|topogram|localizer",
    re.I,
)

NO_AGENT = re.compile(
    r"\W*(none|no|non|nil|nihil|nada|null?|n|n/?a|not? applied|false|0|kein\w*|nein|aucun\w*|sans"
    r"|ningun\w*|sin|nessun\w*|senza|geen|zonder|ingen|inget|intet|uten|utan|uden|brak|bez|nenhum\w*|sem|nao|nie|plain|nativ\w*"
    r"|oral\w*|нет|без|无|無|なし|없음)?\W*"
)
"""What stands in the tag of the contrast agent where none, or only an oral one, was given."""

NOT = re.compile(
    "no|non|none|not|without|wo|w/o|sans|sin|senza|sem|zonder|geen|uten|utan|uden|ingen|inget|bez|brak|ohne"
    "|keine?|ilman|fara|nem|s/|pre|prior|before|vor|voor|prae|pra|avant|antes|prima|przed|ennen|før|fore|ante"
    "|без|до|χωρις"
)
WITH = re.compile(
    "with|w/|mit|avec|con|com|c/|med|met|ze?|s|post|after|nach|apres|dopo|despues|depois|po|na|etter|efter"
)
AFTERWARDS_NOT = re.compile("frei|free|fritt?|vrij|none|no|non|nein|nelkul")
AGENT_WORD = re.compile(
    r"(contra?st|kontras|contraast|varjoaine|контраст|σκιαγραφ)\w*(?<!frei)(?<!fri)(?<!fritt)(?<!free)(?<!vrij)(?<!los)"
    r"|kts|cte|km|mdc|mdk|civ|ivc"
    r"|inje[ck]\w*|enhance\w*|omnipaque|iopamidol|ultravist|iomeron|visipaque|isovue|iohexol|optiray|xenetix"
)
ENHANCED_SCAN = re.compile(r"ct[apv]|cta\w+|angio\w*|tsa|perf\w*|arteri\w*|venous|veno\w*|venos\w*|ангио\w*")
PLAIN_SCAN = re.compile(
    r"nc|ncct|nect|noncon\w*|unenhanced|plain|nativ\w*|blanco|basale?|nekontras\w*|натив\w*"
)
ASIAN_PLAIN = re.compile(r"単純|平扫|平掃|非造影|造影(なし|無)|비조영")
ASIAN_AGENT = re.compile(r"造影|增强|增強|조영")
WORDS = re.compile(r"w/o|[wsc]/|[^\W\d_]+")
ABBREVIATED = re.compile(r"(?<![\w+])(\+ ?c|c ?\+)(?![\w-])")
"""“+C” and “C+”, but not the “+C” of “Head+C-spine”."""


def is_sharp(kernel: str, description: str) -> bool:
    """Tell a bone or lung kernel by its name; by words only where the name says nothing."""
    name = kernel.split("\\")[0].strip()
    if SHARP_KERNEL.fullmatch(name):
        return True
    return not SOFT_KERNEL.fullmatch(name) and says_bone(f"{name} {description}")


def says_bone(description: str) -> bool:
    """Whether a description speaks of bone or lung."""
    return bool(BONE_WORDS.search(_plain(description).replace("_", " ")))


def is_projection(description: str, image_type: str) -> bool:
    """Tell projections, localizers and reports from slices.

    The image type decides. A description counts only for what is not original: people call full thin series
    “thin for MIP”.
    """
    kinds = image_type.upper().split("\\")
    if PROJECTION_TYPE.search(" ".join(kinds).replace("_", " ")) or PROJECTION_TYPE.search(" ".join(kinds)):
        return True
    return kinds[0] != "ORIGINAL" and bool(PROJECTION_WORDS.search(_plain(description).replace("_", " ")))


def has_agent(tag: str) -> bool:
    """Whether the tag of the contrast agent names one: “NONE” and its likes in other languages are none."""
    text = _plain(tag)
    words = WORDS.findall(text)
    denied = words and (NOT.fullmatch(words[0]) or AFTERWARDS_NOT.fullmatch(words[-1]))
    return not (denied or NO_AGENT.fullmatch(text))


def says_contrast(description: str) -> bool:
    """Whether a description says that contrast agent was given, in the languages of Docs/volumes.md.

    Words are read from left to right: after “without”, “senza”, “pre” and the like, up to the next “with” or
    “post”, contrast is denied; so it is by “frei” and “free” behind it.
    """
    text = _plain(description)
    if ASIAN_AGENT.search(ASIAN_PLAIN.sub("", text)):
        return True
    denied = bool(ASIAN_PLAIN.search(text))
    abbreviated = bool(ABBREVIATED.search(text))
    words = WORDS.findall(text)
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if NOT.fullmatch(word) or PLAIN_SCAN.fullmatch(word):
            denied = True
        elif WITH.fullmatch(word):
            denied = False
        named = AGENT_WORD.fullmatch(word) and not denied and not AFTERWARDS_NOT.fullmatch(after)
        if named or (ENHANCED_SCAN.fullmatch(word) and not NOT.fullmatch(before)):
            return True
    return abbreviated and not denied


def _plain(text: str) -> str:
    """Lower the case and take accents off."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().replace("ł", "l"))
    return unicodedata.normalize(
        "NFC", "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    )
