"""The slips of `make mutants` fit the code and the tests as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants.slip import Slip
from mutants.slips import SLIPS

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.what)
def test_a_slip_fits(slip: Slip) -> None:
    assert (PROJECT / slip.file).read_text().count(slip.old) == 1
    assert slip.new != slip.old
    assert slip.tests
    for test in slip.tests:
        file, _, name = test.partition("::")
        text = (PROJECT / file).read_text()
        assert f"def {name.partition('[')[0]}(" in text if name else text
