"""Words for the slots of the grammar: things, places, names, numbers as people write them.

One set of words is drawn for a ticket, so that a message speaks of one order and one amount. All
items begin with a consonant and are singular: "a {item}" and "the {item} is" always fit.
"""

from __future__ import annotations

from distill.demo.dice import Dice

THINGS = (
    "winter jacket", "phone case", "yoga mat", "backpack", "camping stove", "wool blanket",
    "standing desk", "board game", "travel pillow", "garden hose", "suitcase", "picture frame",
    "wall clock", "bike helmet", "water bottle", "laptop sleeve", "tent", "bookshelf", "raincoat",
    "dining chair", "mirror", "leather wallet", "coffee table", "sofa cover", "chess set",
    "car seat", "bed frame", "tool box", "lunch box", "shower curtain", "music stand", "toy train",
)  # fmt: skip
MACHINES = (
    "coffee grinder", "desk lamp", "bluetooth speaker", "rice cooker", "keyboard", "toaster",
    "smart watch", "baby monitor", "bread maker", "drill", "kettle", "robot vacuum", "hair dryer",
    "juicer", "printer", "gaming mouse", "tablet", "fitness tracker", "kitchen scale",
    "night light", "sewing machine", "fan heater", "dash cam", "projector", "milk frother",
)  # fmt: skip

NAMES = (
    "Maria", "Tom", "J. Patel", "Sven", "Aisha K.", "Lena", "Oscar", "Priya", "Daniel Reyes",
    "Chloe", "Mr. Hughes", "Yuki", "Carlos", "Ruth B.", "Ingrid", "Ben", "Nadia", "Sam O.",
    "Grace Lin", "Peter", "Fatima", "Joel", "Mrs. Novak", "Kwame", "Elena", "Rob", "Hannah W.",
    "Dev", "Sofia", "Marcus", "Zoe", "Anton", "Leila", "Frank D.", "Mei", "Tariq", "Paula",
)  # fmt: skip
CITIES = (
    "Leeds", "Denver", "Lyon", "Cork", "Austin", "Ghent", "Porto", "Bristol", "Tampa", "Turin",
    "Oslo", "Graz", "Boise", "Malmo", "Perth", "Halifax", "Dayton", "York", "Bergen", "Cardiff",
)  # fmt: skip
STREETS = (
    "Mill Lane", "Oak Street", "Station Road", "Birch Avenue", "Harbour View", "Elm Court",
    "Park Row", "Church Hill", "Cedar Drive", "Canal Walk", "Bridge Street", "Maple Close",
)  # fmt: skip
CARRIERS = (
    "the courier", "NorthPost", "ParcelBee", "the driver", "QuickVan", "the delivery company",
)  # fmt: skip
MERCHANTS = (
    "Novaplay", "KRT Digital", "Sunline Travel", "Zenbit Exchange", "Lumo Games", "PX*Store 44",
    "Orbital Media", "a shop in Manila", "some gaming site", "Fastgift Cards", "a taxi app",
)  # fmt: skip
DEVICES = (
    "phone", "laptop", "tablet", "old tablet", "work computer", "new phone", "desktop", "browser",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def words(dice: Dice, *, name: str, amount: float, powered: bool) -> dict[str, str]:
    """One word for every slot. `powered`: the item must be one with a plug or a battery."""
    item = dice.pick(MACHINES if powered else THINGS + MACHINES)
    return {
        "item": item,
        "machine": item,
        "past": dice.pick([each for each in THINGS + MACHINES if each != item]),
        "order": _order(dice),
        "amount": _money(dice, amount),
        "date": _date(dice),
        "day": dice.pick(WEEKDAYS),
        "days": str(dice.whole(2, 21)),
        "city": dice.pick(CITIES),
        "street": f"{dice.whole(1, 240)} {dice.pick(STREETS)}",
        "carrier": dice.pick(CARRIERS),
        "merchant": dice.pick(MERCHANTS),
        "device": dice.pick(DEVICES),
        "card": str(dice.whole(1000, 9999)),
        "code": f"{dice.pick('EPW')}-{dice.whole(10, 599)}",
        "name": name,
    }


def _order(dice: Dice) -> str:
    number = dice.whole(10000, 99999)
    return dice.pick((f"#{number}", f"{number}", f"A-{number}", f"no. {number}", f"ORD{number}"))


def _money(dice: Dice, amount: float) -> str:
    forms = [f"${amount:,.2f}", f"{amount:.2f} USD", f"USD {amount:,.2f}", f"{amount:.2f} dollars"]
    if amount == int(amount):
        forms += [f"${amount:,.0f}", f"{amount:.0f} dollars", f"${amount:.0f}"]
    return dice.pick(forms)


def _date(dice: Dice) -> str:
    month, day = dice.whole(1, 12), dice.whole(1, 28)
    return dice.pick(
        (
            f"{day} {MONTHS[month - 1]}",
            f"{MONTHS[month - 1]} {day}",
            f"{month}/{day}",
            f"2025-{month:02}-{day:02}",
            f"the {day}th" if day in range(4, 21) else f"{MONTHS[month - 1][:3]} {day}",
            dice.pick(WEEKDAYS),
        )
    )
