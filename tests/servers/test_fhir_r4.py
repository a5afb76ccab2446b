"""The prototype of R4 is R4 to HAPI's validator."""

from __future__ import annotations

import pytest

from tests.fhir_mutants import NAMING, SERIES, good
from tests.fhir_r4 import as_r4
from tests.servers.fhir import Validator
from tomodex.formats.fhir import IndexedSeries, indexed_series, transaction

pytestmark = pytest.mark.server


def test_the_prototype_is_valid(r4_validator: Validator) -> None:
    study = [indexed_series(SERIES), IndexedSeries(series_uid="1.2.9", number=2)]
    assert r4_validator.errors(as_r4(transaction(SERIES, study, NAMING), NAMING)) == []


def test_r5_is_not(r4_validator: Validator) -> None:
    assert r4_validator.errors(good())
