"""A kitchen's recipes, scaled to its guests, and a menu plan that keeps its reader waiting."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bottle

app = bottle.Bottle()
bottle.TEMPLATE_PATH.insert(0, str(Path(__file__).parent / "views"))

# Grams for one guest.
RECIPES = {
    "risotto": {"rice": 90, "peas": 60, "butter": 15},
    "lentil soup": {"lentils": 80, "carrots": 70},
    "pancakes": {"flour": 100, "milk": 150, "butter": 10},
}

STOVE_SECONDS = 0.05
"""The cook takes this long to think about one day."""


@app.get("/")
def recipes():
    """List the recipes."""
    return bottle.template("recipes", recipes=RECIPES)


@app.get("/recipe/<name>")
def recipe(name):
    """Show one recipe, for one guest."""
    if name not in RECIPES:
        bottle.abort(404)
    return bottle.template("recipe", name=name, guests=1, grams=RECIPES[name])


@app.post("/recipe/<name>")
def scale(name):
    """Show one recipe, for as many guests as the form says."""
    if name not in RECIPES:
        bottle.abort(404)
    guests = int(bottle.request.forms.guests)
    grams = {food: guests * amount for food, amount in RECIPES[name].items()}
    return bottle.template("recipe", name=name, guests=guests, grams=grams)


@app.get("/report")
def report():
    """Answer with a menu plan, after seconds or minutes."""
    bottle.response.content_type = "text/plain; charset=utf-8"
    return menu_plan(bottle.request.query.days)


def menu_plan(days: str, progress: Callable[[str, int, int], None] = lambda *_: None) -> str:
    """Choose a dish for each day, and add up what to buy for one guest."""
    shopping: Counter[str] = Counter()
    menu = []
    for number in range(int(days)):
        progress(f"Choosing a dish for day {number + 1}", number, int(days))
        dish = dish_of(number)
        shopping.update(RECIPES[dish])
        menu.append(f"day {number + 1}: {dish}")
    return "\n".join([*menu, *(f"buy {grams} g of {food}" for food, grams in sorted(shopping.items()))])


def dish_of(day: int) -> str:
    """Ask the cook what to serve on a day."""
    time.sleep(STOVE_SECONDS)
    return sorted(RECIPES)[day * 7 % len(RECIPES)]
