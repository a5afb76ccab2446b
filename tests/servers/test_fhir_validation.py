"""What we write is FHIR to those who made it: HAPI's validator, R5 and our own profiles."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.render_ig import example_resources

from tests.annotated import LIVER, ONE, SPLEEN
from tests.fhir_mutants import HAPI, MUTANTS, Mutant, good
from tests.servers.fhir import Validator
from tomodex.annotation import Annotation
from tomodex.formats.fhir import (
    IndexedSeries,
    Naming,
    WriteMode,
    indexed_series,
    observations,
    transaction,
)
from tomodex.terminology import load_terminology

pytestmark = pytest.mark.server

#: The base that the guide is compiled with.
OURS = Naming()
EXAMPLES = example_resources(load_terminology(), OURS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_of_the_guide_is_valid(validator: Validator, name: str) -> None:
    assert validator.errors(EXAMPLES[name]) == []


def test_every_observation_is_valid(validator: Validator) -> None:
    for one in observations(replace(ONE, annotations=(LIVER, SPLEEN)), OURS):
        assert validator.errors(one) == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    attributes=st.dictionaries(
        st.sampled_from(["StudyDate", "SeriesDate", "SeriesNumber", "StudyDescription"]),
        TEXTS | st.floats() | st.integers() | st.dates().map(str),
    ),
    patient=st.just("") | st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    modality=st.sampled_from(["CT", "MR", "PT", "NM", ""]),
    count=st.none() | st.integers(0, 10_000),
    found=st.sampled_from([(), (LIVER,), (LIVER, SPLEEN)]),
    others=st.lists(
        st.builds(
            IndexedSeries,
            series_uid=st.integers(10, 99).map("1.2.{}".format),
            number=st.none() | st.integers(0, 2**31 - 1),
            shows_structures=st.booleans(),
        ),
        max_size=2,
        unique_by=lambda one: one.series_uid,
    ),
    mode=st.sampled_from(["put", "conditional"]),
    options=st.dictionaries(st.sampled_from(["mode", "step"]), TEXTS),
)
def test_whatever_a_header_says_the_bundle_is_valid(
    validator: Validator,
    attributes: dict[str, str | float],
    patient: str,
    modality: str,
    count: int | None,
    found: tuple[Annotation, ...],
    others: list[IndexedSeries],
    mode: WriteMode,
    options: dict[str, str],
) -> None:
    algorithm = ONE.provenance.algorithm
    assert algorithm is not None
    annotated = replace(
        ONE,
        series=replace(
            ONE.series,
            attributes=attributes,
            patient=patient,
            modality=modality,
            instance_count=count,
        ),
        annotations=found,
        provenance=replace(ONE.provenance, algorithm=replace(algorithm, options=options)),
    )
    bundle = transaction(annotated, [indexed_series(annotated), *others], OURS, mode)
    assert validator.errors(json.loads(json.dumps(bundle, allow_nan=False))) == []


def test_a_good_transaction_is_valid(validator: Validator) -> None:
    assert validator.errors(good()) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_hapi_notices_the_mistakes_that_the_table_says(
    validator: Validator, mutant: Mutant
) -> None:
    found = validator.errors(mutant.made())
    assert (HAPI in mutant.noticed_by) == bool(found), found
