"""What a device probably is, and that the page tells the same."""

from __future__ import annotations

import re

import pytest

from legacy_email_proxy.history.families import FAMILIES, family_of
from pages import rows


@pytest.mark.parametrize(
    ("helo", "maker"),
    [
        ("NPI12AB34", "HP"),
        ("npi12ab34.firm.local", "HP"),
        ("BRN30055C123456", "Brother"),
        ("KM1A2B3C", "Kyocera"),
        ("KMBT1A2B3C", "Konica Minolta"),
        ("DESKTOP-4F6G7H8", "a Windows program"),
        ("NPIXYZ", ""),
        ("KM1A2B3C4", ""),
        ("scanner", ""),
        ("[192.168.1.40]", ""),
        ("", ""),
    ],
)
def test_a_name_tells_the_maker(helo: str, maker: str) -> None:
    assert family_of(helo) == maker


def test_no_name_is_of_two_families() -> None:
    for family in FAMILIES:
        for name in family.names:
            example = name.replace("#", "1").replace("?", "a")
            assert [each.maker for each in FAMILIES if each.has(example)] == [family.maker]


def test_the_page_has_the_same_table() -> None:
    told = [
        f"| {family.maker} | {', '.join(f'`{name}`' for name in family.names)} | {' '.join(family.habits) or '–'} |"
        for family in FAMILIES
    ]
    assert rows("families") == told


def test_habits_are_rows_about_this_maker() -> None:
    habits = {number: row for row in rows("devices") for number in re.findall(r"\bC\d+\b", row.split("|")[1])}
    for family in FAMILIES:
        for number in family.habits:
            assert family.maker in habits[number]
