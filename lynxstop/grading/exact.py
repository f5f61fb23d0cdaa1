"""Numbers with a unit, read exactly: integers, fractions, decimals, percentages and their arithmetic."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from lynxstop.grading.formula import fraction_of, has_decimals, read_formula

_LONGEST = 200
_CLOSE = Fraction(1, 10**6)
_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d/]|,\d)")
_EUROPEAN = re.compile(r"[-+]?\d{1,3}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,}|(?: \d{3})+,\d+)")
_GROUPS = re.compile(r"[-+]?\d{1,4}(?:,\d{2,4})*,\d{3,4}(?:\.\d+)?")
_COMMA = re.compile(r"[-+]?\d+,\d+")
_PLAIN = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_MIXED = re.compile(r"([-+]?)(\d+) ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+))")
_AND = re.compile(r"(\d+) and (?:(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_REPEATING = re.compile(
    r"([-+]?)(\d*)\.(\d*)(?:\\(?:overline|bar)\s*\{(\d+)\}|\\(?:overline|bar|dot)\s*(\d)|\\dot\{(\d)\}|\((\d+)\))"
)
_TAIL = re.compile(r"(?:(?<=[\d)}.!])|(?<=\\pi)) ?(?P<unit>%|[A-Za-z](?:[A-Za-z /]|\s?\^\s?\{?-?\d\}?)*)")
_ANGLE = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot)")
"""Functions whose degrees are those of their angle, and no unit of the value."""
_FACTORS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_SAME_UNITS = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "km": "kilometer kilometre",
    "metre": "meter", "mg": "milligram", "kg": "kilogram", "ml": "milliliter millilitre mL", "litre": "liter",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "lb": "pound lbs", "oz": "ounce",
    "hr": "hour hrs", "min": "minute mins", "sec": "second secs", "mph": "", "dollar": "USD usd",
    "euro": "EUR eur", "degree": "deg", "radian": "rad", "day": "days", "year": "yr yrs",
    "dm": "decimeter decimetre", "cl": "", "ms": "millisecond", "gram": "", "cent": "", "": "units unit",
    "Hz": "hertz", "kHz": "", "MHz": "", "GHz": "", "kJ": "", "kW": "", "MW": "", "mW": "", "kPa": "",
    "MPa": "", "Pa": "pascal", "eV": "", "keV": "", "MeV": "", "mol": "mole", "kWh": "", "nm": "nanometer",
}  # fmt: skip
_UNITS = {other: unit for unit, others in _SAME_UNITS.items() for other in (unit, *others.split())}
_LETTERS = set("mgslhLVWJNKCFAT")
_SHORT_WORDS = {
    "men", "way", "boy", "cat", "dog", "egg", "car", "box", "bus", "cup", "pen", "toy", "hat", "bit",
}  # fmt: skip
_CHANGES_VALUE = re.compile(
    r"(?:squared?d|cubed|hal(?:f|ve)|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth"
    r"|[a-z]*(?:even|elf|een|ie)th|tens?$|[a-z]*illion|hundred|thousand|lakh|crore|dozen|score|gross|pair|couple"
    r"|factorial|repeat|recurring|base|binary|octal|hex|mod|remainder|choose|sqrt|root|infinity|power"
    r"|double|triple|twice|inverse|reciprocal|percentile|plus|minus|times|negative|positive"
    r"|less|fewer|more|extra|short|older|younger|taller|longer|faster|slower|higher|lower|larger|smaller|greater"
    r"|least|most|about|approx|roughly|below|above|under|over|north|south|(?:anti|counter)?clockwise"
    r"|east|west|left|right|down|loss|profit|increase|decrease|before|after|midnight|noon"
    r"|or$|and$|to$|of$|am$|pm$|bce?$"
    r"|alpha$|beta$|gamma$|delta$|theta$|lambda$|sigma$|omega$|sin$|cos$|tan$|log$|exp$|not$|nor$|then$|than$)"
)


class Number(NamedTuple):
    """A number as written; `decimal` where it has a decimal point and may be rounded."""

    value: Fraction
    decimal: bool


class Measure(NamedTuple):
    """What stands before a unit, the unit in one spelling, and the factor in words ("million")."""

    body: str
    unit: str
    factor: int


def read_measure(text: str) -> Measure:
    """Take the unit off a normalised answer; the unit is empty where there is none that is known for one."""
    match = _TAIL.search(text)
    while match is not None and match.end() != len(text):
        match = _TAIL.search(text, match.end())
    if match is None:
        return Measure(text, "", 1)
    body = text[: match.start()].strip()
    words = re.sub(r"\s?\^\s?\{?(-?\d)\}?", r"^\1", match["unit"].strip())
    if words == "%" or words == "percent":
        return Measure(body, "%", 1)
    factor = 1
    while (first := words.partition(" "))[0].lower() in _FACTORS:
        factor, words = factor * _FACTORS[first[0].lower()], first[2]
        if factor > 10**30:
            return Measure(text, "", 1)
    spaced = text[match.start()] == " "
    unit = _unit(words, spaced)
    if unit == "degree" and _ANGLE.search(body):
        return Measure(text, "", 1)
    return Measure(text, "", 1) if unit is None else Measure(body, unit, factor)


def _unit(words: str, spaced: bool) -> str | None:
    """One spelling of a unit; None when a word may change the value, or may be a product of variables."""
    if words in _UNITS or not words:
        return _UNITS.get(words, "")
    if words in _LETTERS:
        return words if spaced else None
    found, prefix = [], ""
    for word in re.split(r"\s+|(/)", words):
        if not word:
            continue
        name, _, power = word.partition("^")
        lowered = name.lower()
        if lowered in ("square", "sq", "cubic"):
            prefix = "^3" if lowered == "cubic" else "^2"
            continue
        if word in ("/", "per"):
            found.append("/")
            continue
        singular = lowered.removesuffix("s") if len(lowered) > 3 else lowered
        other_case = len(name) == 2 and name[0] in "MN"  # a prefix of its own, as in "Mg" and "Nm"
        known = (
            _UNITS.get(name) if other_case else _UNITS.get(name, _UNITS.get(lowered, _UNITS.get(singular)))
        )
        if known is None:
            product = len(set(name)) == len(name) and list(lowered) == sorted(lowered)
            if len(words) > len(name) and name in _LETTERS:
                known = name
            elif (
                (len(name) < 4 and lowered not in _SHORT_WORDS)
                or product
                or not spaced
                or _CHANGES_VALUE.match(lowered)
            ):
                return None
            known = known or singular
        found.append(known + (f"^{power}" if power else prefix))
        prefix = ""
    return None if prefix else " ".join(found)


def read_number(text: str) -> Number | None:
    """Read a normalised answer without a unit as one exact number; None when it is anything else."""
    text = text.strip()
    if not text or len(text) > _LONGEST:
        return None
    if _EUROPEAN.fullmatch(text):
        text = text.replace(".", "").replace(" ", "").replace(",", ".")
        return Number(Fraction(text), "." in text)
    text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[0]), text)
    if _PLAIN.fullmatch(text):
        return Number(Fraction(text), "." in text)
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, *parts = mixed.groups()
        above, below = (int(part) for part in parts if part is not None)
        return Number(Fraction(f"{sign}1") * (int(whole) + Fraction(above, below)), False) if below else None
    repeating = _REPEATING.fullmatch(text)
    if repeating:
        return Number(_repeating(*repeating.groups()), False)
    tree = read_formula(text)
    value = None if tree is None else fraction_of(tree)
    return None if tree is None or value is None else Number(value, has_decimals(tree))


def _repeating(sign: str, whole: str, before: str, *cycles: str | None) -> Fraction:
    cycle = next(cycle for cycle in cycles if cycle)
    once = Fraction(int(cycle), int("9" * len(cycle) + "0" * len(before)))
    return Fraction(f"{sign}1") * (Fraction(f"{whole or 0}.{before or 0}") + once)


def same_number(left: Number, right: Number) -> bool | None:
    """Compare exactly; None where a decimal is so close to the other number that it may be it, rounded."""
    if left.value == right.value:
        return True
    near = abs(left.value - right.value) <= _CLOSE * max(abs(left.value), abs(right.value))
    return None if near and (left.decimal or right.decimal) else False


def readings(text: str) -> set[Fraction]:
    """Every number that a text may be, where commas group digits or stand for the point, and "1 and 1/2"."""
    text = read_measure(text).body
    number = read_number(text)
    found = set() if number is None else {number.value}
    if len(text) <= _LONGEST and _GROUPS.fullmatch(text):
        found.add(Fraction(text.replace(",", "")))
    if len(text) <= _LONGEST and _COMMA.fullmatch(text):
        found.add(Fraction(text.replace(",", ".")))
    if len(text) <= _LONGEST and (mixed := _AND.fullmatch(text)):
        whole, above, below = (int(part) for part in mixed.groups() if part is not None)
        found |= {whole + Fraction(above, below)} if below else set()
    return found


def is_european(text: str) -> bool:
    """Whether the dots of a number such as "1.000,5" can only separate thousands."""
    return _EUROPEAN.fullmatch(text) is not None
