"""The sentences of the built-in facts: our own, in 12 languages, none needing the slots inflected.

Every template holds exactly one ``[X]`` (subject) and one ``[Y]`` (object). CLDR gives names in their dictionary form,
so languages that inflect put the slot in apposition ("Währung von [X] ist: [Y]", "maassa [Y]").
"""

from __future__ import annotations

LANGUAGES = ("en", "de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh", "ko", "fi")

# Wikidata's property ids, as in mLAMA: P17 country of a place, P37 official language, P38 currency, P282 writing
# system, P361 part of (a United Nations sub-region), P2341 indigenous to (where a language is mostly spoken).
TEMPLATES: dict[str, dict[str, str]] = {
    "P17": {
        "en": "[X] is a place in [Y].",
        "de": "[X] ist ein Ort in diesem Land: [Y].",
        "fr": "[X] est un lieu de ce pays : [Y].",
        "es": "[X] es un lugar de este país: [Y].",
        "ru": "[X] — место в стране [Y].",
        "el": "[X]: τόπος στη χώρα [Y].",
        "tr": "[X], [Y] ülkesinde bir yerdir.",
        "ar": "[X] مكان في [Y].",
        "hi": "[X] [Y] में एक जगह है।",
        "zh": "[X]是[Y]的一个地方。",
        "ko": "[X]은(는) [Y]에 있는 곳입니다.",
        "fi": "[X] on paikka maassa [Y].",
    },
    "P37": {
        "en": "The official language of [X] is [Y].",
        "de": "Die Amtssprache von [X] ist [Y].",
        "fr": "La langue officielle de [X] est : [Y].",
        "es": "El idioma oficial de [X] es: [Y].",
        "ru": "Официальный язык страны [X] — [Y].",
        "el": "Η επίσημη γλώσσα στη χώρα [X] είναι: [Y].",
        "tr": "[X] ülkesinin resmî dili: [Y].",
        "ar": "اللغة الرسمية في [X] هي [Y].",
        "hi": "[X] की आधिकारिक भाषा [Y] है।",
        "zh": "[X]的官方语言是[Y]。",
        "ko": "[X]의 공용어는 [Y]입니다.",
        "fi": "Maan [X] virallinen kieli on [Y].",
    },
    "P38": {
        "en": "The currency of [X] is the [Y].",
        "de": "Die Währung von [X] ist: [Y].",
        "fr": "La monnaie de [X] est : [Y].",
        "es": "La moneda de [X] es: [Y].",
        "ru": "Валюта страны [X] — [Y].",
        "el": "Το νόμισμα στη χώρα [X] είναι: [Y].",
        "tr": "[X] ülkesinin para birimi: [Y].",
        "ar": "العملة في [X] هي [Y].",
        "hi": "[X] की मुद्रा [Y] है।",
        "zh": "[X]的货币是[Y]。",
        "ko": "[X]의 통화는 [Y]입니다.",
        "fi": "Maan [X] valuutta on [Y].",
    },
    "P282": {
        "en": "The language [X] is written in this script: [Y].",
        "de": "Die Schrift der Sprache [X] ist: [Y].",
        "fr": "La langue [X] s'écrit dans cette écriture : [Y].",
        "es": "El idioma [X] se escribe con esta escritura: [Y].",
        "ru": "Письменность языка [X] — [Y].",
        "el": "Η γραφή της γλώσσας [X] είναι: [Y].",
        "tr": "[X] şu yazıyla yazılır: [Y].",
        "ar": "تُكتب لغة [X] بهذه الكتابة: [Y].",
        "hi": "[X] भाषा की लिपि [Y] है।",
        "zh": "[X]使用的文字是[Y]。",
        "ko": "[X]의 문자는 [Y]입니다.",
        "fi": "Kielen [X] kirjoitus on [Y].",
    },
    "P361": {
        "en": "[X] is part of the region [Y].",
        "de": "[X] gehört zur Region [Y].",
        "fr": "[X] fait partie de la région : [Y].",
        "es": "[X] forma parte de la región: [Y].",
        "ru": "[X] относится к региону [Y].",
        "el": "Το μέρος [X] ανήκει στην περιοχή: [Y].",
        "tr": "[X], [Y] bölgesinde yer alır.",
        "ar": "تقع [X] في منطقة [Y].",
        "hi": "[X] [Y] क्षेत्र में आता है।",
        "zh": "[X]属于[Y]地区。",
        "ko": "[X]이(가) 속한 지역은 [Y]입니다.",
        "fi": "[X] kuuluu alueeseen [Y].",
    },
    "P2341": {
        "en": "The language [X] is mostly spoken in [Y].",
        "de": "Die Sprache [X] spricht man vor allem in diesem Land: [Y].",
        "fr": "La langue [X] se parle surtout dans ce pays : [Y].",
        "es": "El idioma [X] se habla sobre todo en este país: [Y].",
        "ru": "На языке [X] говорят прежде всего в стране [Y].",
        "el": "Η γλώσσα [X] μιλιέται κυρίως στη χώρα [Y].",
        "tr": "[X] en çok [Y] ülkesinde konuşulur.",
        "ar": "تُستخدم لغة [X] خاصة في [Y].",
        "hi": "[X] भाषा मुख्यतः [Y] में बोली जाती है।",
        "zh": "说[X]的人主要在[Y]。",
        "ko": "[X] 사용자가 가장 많은 나라는 [Y]입니다.",
        "fi": "Kieltä [X] puhutaan eniten maassa [Y].",
    },
}

# Other English wordings of the same claims, for the generality of edits.
REPHRASINGS: dict[str, tuple[str, ...]] = {
    "P17": ("The place [X] lies in the country [Y].", "You find [X] in [Y].", "[X] belongs to the country [Y]."),
    "P37": ("In [X], the official language is [Y].", "[Y] is the official language of [X]."),
    "P38": ("In [X] people pay with the [Y].", "The money used in [X] is the [Y]."),
    "P282": ("The script of the language [X] is [Y].", "To write the language [X], people use this script: [Y]."),
    "P361": ("[X] lies in the region [Y].", "The region of [X] is [Y]."),
    "P2341": ("Most speakers of the language [X] live in [Y].", "In [Y] many people speak the language [X]."),
}
