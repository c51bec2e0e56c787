"""Rendered pages: yearly reports of shops, of which each states in a table or a chart what was sold.

What a shop sold in a year is in the table of that year's report, and of one of the goods also in a line of the next
year's: the first answers the question fully (grade 2), the second in passing (grade 1). Reports of one shop differ in
the year and the numbers alone, so whoever only looks at the heading's town finds the wrong year.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int]  # left, top, right
Ink = tuple[int, int, int]

PAGE_SIZE = (480, 640)
"""Width and height in pixels."""

TOWNS = tuple(
    "Athens Basel Berlin Bergen Boston Cairo Cardiff Cork Dakar Delhi Denver Dublin Geneva Genoa Hamburg Havana "
    "Helsinki Kyoto Leeds Lima Lisbon London Lyon Madrid Milan Oslo Paris Porto Prague Quito Riga Rome".split()
)
_HELD_OUT_TOWNS = 8
YEARS = tuple(range(2010, 2025))
GOODS = tuple(
    "baskets bells books bottles brushes candles chairs clocks cups hats kettles knives ladders lamps mirrors "
    "pans plates ropes shoes spoons tables toys umbrellas vases".split()
)
GOODS_PER_SHOP = 6
EXACT, IN_PASSING = 2, 1
"""Grades: the page has the fact in its table, or says it in a line of text."""

MAX_TRAIN = (len(TOWNS) - _HELD_OUT_TOWNS) * len(YEARS) * GOODS_PER_SHOP
MAX_EVAL = _HELD_OUT_TOWNS * len(YEARS) * GOODS_PER_SHOP
"""How many facts there are to ask for on each side."""

_QUESTIONS = (
    "How many {goods} did the shop in {town} sell in {year}?",
    "What was the number of {goods} sold in {town} in {year}?",
    "{goods} sold by the {town} shop in {year}",
)
_INKS = ((30, 60, 120), (120, 40, 40), (20, 100, 60), (60, 60, 60), (110, 60, 130))


@dataclass(frozen=True)
class Page:
    """The report of a shop on a year.

    Args:
        town: Where the shop is.
        year: What year is reported.
        sold: The goods, each with how many were sold.
        looking_back: One of the goods, and how many of them were sold the year before.
        seed: Which rendering.
    """

    town: str
    year: int
    sold: tuple[tuple[str, int], ...]
    looking_back: tuple[str, int]
    seed: str

    @property
    def name(self) -> str:
        """Name of the page: no other page is about this shop and year."""
        return f"{self.town}-{self.year}"

    @property
    def concept(self) -> str:
        """Canonical text of what the page is about."""
        return f"page: {self.town} / {self.year}"

    def draw(self) -> Image.Image:
        """Draw the page.

        Returns:
            An RGB picture of ``PAGE_SIZE``.
        """
        rng = Random(f"{self.seed}/{self.name}")
        canvas = Image.new("RGB", PAGE_SIZE, tuple(rng.randint(244, 255) for _ in range(3)))
        pen, ink, margin = ImageDraw.Draw(canvas), rng.choice(_INKS), rng.randint(32, 48)
        y = rng.randint(32, 56)
        pen.text((margin, y), f"{self.town}, {self.year}", fill=ink, font=_font(rng.randint(34, 40)))
        y += 56
        pen.text((margin, y), f"Report of the shop in {self.town}", fill=ink, font=_font(20))
        y += 44
        for line in self._lines(rng):
            pen.text((margin, y), line, fill=(40, 40, 40), font=_font(15))
            y += 24
        right = PAGE_SIZE[0] - margin
        rng.choice((_draw_table, _draw_chart))(pen, (margin, y + 24, right), self.sold, ink)
        pen.text((right, 612), str(rng.randint(1, 40)), fill=(120, 120, 120), font=_font(12), anchor="ra")
        return canvas

    def _lines(self, rng: Random) -> list[str]:
        goods, count = self.looking_back
        lines = [
            f"The shop was open on {rng.randint(240, 310)} days of {self.year}.",
            f"In {self.year - 1}, it had sold {count} {goods}.",
            f"{rng.randint(2, 9)} people worked in it.",
        ]
        rng.shuffle(lines)
        return lines


@dataclass(frozen=True)
class Fact:
    """A question that pages answer.

    Args:
        query: What is asked.
        pages: The pages that answer it, each with its grade; the first is the best.
    """

    query: str
    pages: tuple[tuple[Page, int], ...]


def train_facts(rng: Random, count: int, *, seed: int | str = 0) -> list[Fact]:
    """Draw questions about shops of the training side, none twice; at most ``MAX_TRAIN``."""
    return _facts(TOWNS[:-_HELD_OUT_TOWNS], rng, seed)[:count]


def held_out_facts(rng: Random, count: int, *, seed: int | str = 0) -> tuple[list[Fact], list[Page]]:
    """Draw questions about shops of the evaluation side, none twice, and all pages of these shops.

    Args:
        rng: Source of randomness.
        count: How many questions, at most ``MAX_EVAL``. There are about as many pages, of all years of some shops.
        seed: Which numbers and renderings.
    """
    towns = rng.sample(TOWNS[-_HELD_OUT_TOWNS:], min(_HELD_OUT_TOWNS, -(-count // len(YEARS))))
    pages = [page for town in sorted(towns) for page in _reports(town, seed)]
    return _facts(towns, rng, seed)[:count], pages


def _facts(towns: list[str] | tuple[str, ...], rng: Random, seed: int | str) -> list[Fact]:
    """Return all questions about some shops in random order."""
    found = []
    for town in towns:
        reports = _reports(town, seed)
        for page, following in zip(reports, [*reports[1:], None], strict=True):
            for goods, _ in page.sold:
                pages = [(page, EXACT)]
                if following is not None and following.looking_back[0] == goods:
                    pages.append((following, IN_PASSING))
                query = rng.choice(_QUESTIONS).format(goods=goods, town=town, year=page.year)
                found.append(Fact(query, tuple(pages)))
    rng.shuffle(found)
    return found


def _reports(town: str, seed: int | str) -> list[Page]:
    """Return the reports of a shop, year by year."""
    rng = Random(f"shop-{seed}-{town}")
    goods = rng.sample(GOODS, GOODS_PER_SHOP)
    before, reports = [rng.randint(11, 99) for _ in goods], []
    for year in YEARS:
        index, sold = rng.randrange(len(goods)), [rng.randint(11, 99) for _ in goods]
        looking_back = (goods[index], before[index])
        reports.append(Page(town, year, tuple(zip(goods, sold, strict=True)), looking_back, str(seed)))
        before = sold
    return reports


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _draw_table(pen: ImageDraw.ImageDraw, box: Box, sold: tuple[tuple[str, int], ...], ink: Ink) -> None:
    """Draw a row for each of the goods between (left, top) and the right."""
    left, top, right = box
    for number, cells in enumerate((("Goods", "Sold"), *((goods, str(count)) for goods, count in sold))):
        y = top + 40 * number
        if number == 0:
            pen.rectangle((left, y, right, y + 40), fill=ink)
        pen.rectangle((left, y, right, y + 40), outline=ink)
        colour = (255, 255, 255) if number == 0 else (20, 20, 20)
        pen.text((left + 12, y + 20), cells[0], fill=colour, font=_font(20), anchor="lm")
        pen.text((right - 12, y + 20), cells[1], fill=colour, font=_font(20), anchor="rm")


def _draw_chart(pen: ImageDraw.ImageDraw, box: Box, sold: tuple[tuple[str, int], ...], ink: Ink) -> None:
    """Draw a bar for each of the goods between (left, top) and the right, with its number at the end."""
    left, top, right = box
    start, longest = left + 110, max(count for _, count in sold)
    pen.text((left, top), "Goods sold", fill=ink, font=_font(18))
    for number, (goods, count) in enumerate(sold):
        y = top + 40 + 40 * number
        end = start + (right - start - 40) * count / longest
        pen.rectangle((start, y, end, y + 26), fill=ink)
        pen.text((start - 8, y + 13), goods, fill=(20, 20, 20), font=_font(18), anchor="rm")
        pen.text((end + 6, y + 13), str(count), fill=(20, 20, 20), font=_font(18), anchor="lm")
    pen.line((start, top + 32, start, top + 40 * (len(sold) + 1)), fill=(20, 20, 20), width=2)
