"""A warehouse: its items as JSON and on a page, and a stocktaking that keeps its reader waiting."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel

app = FastAPI(title="Warehouse")
templates = Jinja2Templates(Path(__file__).parent / "templates")

AISLES = {"A": 30, "B": 45, "high": 900}
"""How many shelves each aisle has."""

SCANNER_SECONDS = 0.05
"""The scanner takes this long to count one shelf."""


class Item(BaseModel):
    """Something that is kept here."""

    sku: str
    name: str
    aisle: str


ITEMS = [
    Item(sku="b-1", name="bolt", aisle="A"),
    Item(sku="n-1", name="nut", aisle="A"),
    Item(sku="p-1", name="plank", aisle="B"),
]


@app.get("/", response_class=HTMLResponse)
async def front_page(request: Request, q: str = "") -> HTMLResponse:
    """Show the items that a search finds."""
    found = [item for item in ITEMS if q in item.name]
    return templates.TemplateResponse(request, "items.html", {"items": found, "q": q, "aisles": AISLES})


@app.get("/items")
async def items() -> list[Item]:
    """List the items."""
    return ITEMS


@app.get("/items/{sku}")
async def item(sku: str) -> Item:
    """Show one item."""
    for candidate in ITEMS:
        if candidate.sku == sku:
            return candidate
    raise HTTPException(404)


@app.get("/report", response_class=PlainTextResponse)
async def report(aisle: str) -> str:
    """Answer with the stock of an aisle, after seconds or minutes."""
    return await count_stock(aisle)


async def count_stock(aisle: str, progress: Callable[[str, int, int], None] = lambda *_: None) -> str:
    """Count what is on the shelves of an aisle."""
    shelves = AISLES[aisle]
    lines = []
    for number in range(shelves):
        progress(f"Counting shelf {number + 1}", number, shelves)
        lines.append(f"shelf {number + 1}: {await scan(number)} pieces")
    return "\n".join([f"Stock of aisle {aisle}", *lines])


async def scan(shelf: int) -> int:
    """Ask the scanner how many pieces are on a shelf."""
    await asyncio.sleep(SCANNER_SECONDS)
    return shelf * 7919 % 50
