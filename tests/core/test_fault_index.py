"""Every row of the fault matrix is asserted by a test, or tests/README.md says why not; see :mod:`matrix`."""

from __future__ import annotations

import matrix


def test_every_row_is_asserted() -> None:
    untested = matrix.untested()
    assert len(untested) <= 8
    assert matrix.mistakes(matrix.claims("fault"), matrix.FAULTS.keys() - set(untested)) == []


def test_the_matrix_is_whole() -> None:
    numbers = {"A": 36, "B": 27, "C": 32, "D": 22, "E": 12}
    assert list(matrix.FAULTS) == [f"{part}{number + 1}" for part, last in numbers.items() for number in range(last)]


SAMPLE = """
import pytest
from waiting import until
from clients import reset_when_closed

def checked(): assert True
def unchecked(): pass

@pytest.mark.fault("A1", "A2")
def test_plain(): assert True

@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.fault("A3")), 2])
async def test_row(x):
    with pytest.raises(ValueError): x()

@pytest.mark.fault("A4")
def test_helper(): checked()

@pytest.mark.fault("A5")
def test_nothing(): unchecked()

@pytest.mark.skip
@pytest.mark.fault("A6")
def test_skipped(): assert True

@pytest.mark.fault("A7")
async def test_waits(): await until(lambda: True)

@pytest.mark.fault("Z1")
def test_unknown(): assert True

@pytest.mark.fault("A9")
def test_imported(): reset_when_closed()
"""


def test_what_is_wrong_is_noticed() -> None:
    claims = list(matrix.claims_of_module(SAMPLE, "x.py"))
    assert {claim.row for claim in claims if claim.asserts} == {"A1", "A2", "A3", "A4", "A7", "Z1"}
    assert matrix.mistakes(claims, [f"A{number}" for number in range(1, 10)]) == [
        "A5: x.py::test_nothing asserts nothing",
        "A6: x.py::test_skipped asserts nothing",
        "A8: no test",
        "A9: x.py::test_imported asserts nothing",
        "Z1: no such row (x.py::test_unknown)",
    ]
