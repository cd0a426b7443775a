"""The demo company's goods and markets: codes of the Combined Nomenclature, and countries.

The company is a wholesaler of sports goods and toys. Masses and prices are invented but plausible. The codes
and their supplementary units come from the nomenclature (Regulation (EEC) No 2658/87, Annex I).
"""

from dataclasses import dataclass

HOME = "DE"

# https://european-union.europa.eu/principles-countries-history/eu-countries_en, and Northern Ireland, which
# INTRASTAT treats as a member under the code XI.
_MEMBERS = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK XI"
EU_COUNTRIES = frozenset(_MEMBERS.split())


@dataclass(frozen=True)
class Commodity:
    """The goods with one commodity code.

    Attributes:
        code: the commodity code, eight digits.
        name: a short description of the goods.
        supplementary_unit: the unit to declare besides the mass: ``p/st`` (pieces), ``pa`` (pairs), or "".
        grams: the net mass of a piece or pair.
        cents: the price of a piece or pair.
        origins: the countries of manufacture, the most common one first.
    """

    code: str
    name: str
    supplementary_unit: str
    grams: int
    cents: int
    origins: tuple[str, ...]


# code | name | supplementary unit | grams per piece | cents per piece | origins
_TABLE = """
39269097|plastic articles, other||120|390|CN DE
40115000|bicycle tyres|p/st|640|1290|TW TH
40132000|bicycle inner tubes|p/st|140|310|TW VN
42029291|sports bags of textile||780|1850|CN VN
61121200|track suits, synthetic|p/st|690|2490|BD TR
61123190|swimwear for men, synthetic|p/st|110|980|CN TR
61124190|swimwear for women, synthetic|p/st|130|1290|CN TR
61161020|gloves coated with rubber|pa|90|420|LK
62014010|anoraks for men, synthetic|p/st|620|3150|BD VN
63062200|tents, synthetic||3900|5990|CN BD
63072000|life jackets and belts||720|1990|CN
64021900|sports footwear, plastics|pa|740|2590|VN CN
64041100|sports footwear, textile|pa|620|2890|VN ID
65061010|safety helmets, plastics|p/st|310|1690|CN DE
73239300|drinking bottles of stainless steel||260|890|CN
82119200|knives with fixed blades|p/st|190|1490|DE
85131010|torches with their own source of energy||160|1190|CN
85183000|headphones||210|2490|CN
87116010|electrically assisted cycles|p/st|22400|119000|DE TW
87116090|electric scooters|p/st|14800|34900|CN
87120030|bicycles with ball bearings|p/st|13900|28900|TW DE
87120070|bicycles, other|p/st|8200|8900|TW
87149110|bicycle frames|p/st|2100|11900|TW IT
87149310|bicycle hubs|p/st|410|1890|TW
87149630|crank-gear||820|2790|TW JP
87150010|baby carriages|p/st|9700|17900|CN PL
90041091|sunglasses with plastic lenses|p/st|28|690|CN IT
91021200|wrist-watches, electronic display|p/st|44|1990|CN
94017900|folding chairs, metal frame||2900|2190|CN
94032080|metal furniture, other||11800|6490|PL CN
94043000|sleeping bags|p/st|1400|2990|CN BD
95030010|scooters, tricycles, wheeled toys||4300|4290|CN
95030021|dolls||420|1390|CN
95030030|toy trains||880|3290|CN DE
95030035|construction sets, plastics||950|2790|CZ CN
95030041|stuffed toys||230|790|CN ID
95030055|toy musical instruments||520|1290|CN
95030061|puzzles of wood||640|1090|CZ
95030069|puzzles, other||480|690|DE PL
95030070|toys in sets||1100|1690|CN
95030075|plastic toys with a motor||690|1990|CN
95030095|plastic toys, other||240|590|CN
95030099|toys, other||310|720|CN DE
95044000|playing cards||95|290|AT
95049080|parlour games||870|1790|DE PL
95059000|articles for parties||75|240|CN
95061110|cross-country skis|pa|1500|7900|AT FR
95061200|ski bindings||1300|5990|AT
95062900|water-sport boards||8600|17900|CN
95064000|table-tennis articles||1900|2990|CN DE
95065100|lawn-tennis rackets|p/st|300|4990|CN
95065900|badminton rackets|p/st|95|1290|CN
95066100|lawn-tennis balls|p/st|58|110|TH
95066200|inflatable balls|p/st|430|1190|PK CN
95066990|balls, other|p/st|180|590|CN
95067010|ice skates|pa|1600|3990|CN
95067030|roller skates|pa|2300|4490|CN
95069110|exercise machines, adjustable||31500|24900|CN
95069190|exercise articles, other||2600|1890|CN DE
95069990|trampolines, goals, other||24500|15900|CN PL
95071000|fishing rods||280|2290|CN
95073000|fishing reels|p/st|290|2890|CN JP
"""


def _parsed() -> dict[str, Commodity]:
    rows = (line.split("|") for line in _TABLE.split("\n") if line)
    return {
        code: Commodity(code, name, unit, int(grams), int(cents), tuple(origins.split()))
        for code, name, unit, grams, cents, origins in rows
    }


COMMODITIES = _parsed()
"""All commodities by code."""


def supplementary_unit(code: str) -> str:
    """This code's supplementary unit, or "" if the code has none or is unknown."""
    found = COMMODITIES.get(code)
    return "" if found is None else found.supplementary_unit


def name_of(code: str) -> str:
    """The name of this code's goods, or "" if the code is unknown."""
    found = COMMODITIES.get(code)
    return "" if found is None else found.name
