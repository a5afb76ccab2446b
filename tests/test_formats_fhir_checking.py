"""What is checked before anything is sent: every mistake that we know of is noticed by somebody."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from fhir.resources.bundle import Bundle
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tools.render_ig import example_series

from tests.annotated import ONE
from tests.fhir_mutants import MODELS, MUTANTS, NAMING, OURS, SERIES, Document, Mutant, entry, good
from tomodex.errors import Unsuitable
from tomodex.formats.fhir import WriteMode, indexed_series, observations, transaction, withdrawal
from tomodex.formats.fhir.checking import check_transaction
from tomodex.formats.fhir.resources import study_of
from tomodex.terminology import load_terminology

EXAMPLES = example_series(load_terminology())
MODES: tuple[WriteMode, ...] = ("put", "conditional")


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("mode", MODES)
def test_every_example_passes(name: str, mode: WriteMode) -> None:
    one = EXAMPLES[name]
    numbers = observations(one, NAMING)
    check_transaction(transaction(one, [indexed_series(one)], NAMING, mode, numbers), NAMING)


@pytest.mark.parametrize("mode", MODES)
def test_a_withdrawal_passes(mode: WriteMode) -> None:
    for rest in ([], [indexed_series(ONE)]):
        check_transaction(
            withdrawal(study_of(ONE), "1.2.4", rest, ["Provenance/a"], NAMING, mode), NAMING
        )


def test_at_least_thirty_mistakes_are_known_and_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert all(mutant.noticed_by for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_noticed_before_it_is_sent_or_by_those_who_say_so(mutant: Mutant) -> None:
    assert (OURS in mutant.noticed_by) == we_notice(mutant)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_fhir_resources_notices_what_the_table_says(mutant: Mutant) -> None:
    assert (MODELS in mutant.noticed_by) == models_notice(mutant)


def in_another_order(bundle: Document) -> Document:
    """The same, with the names of each structure before its numbers: nobody writes it so."""
    for one in entry(bundle, "BodyStructure")["resource"]["includedStructure"]:
        one["extension"] = one.pop("extension")
    return bundle


def refusal(bundle: Document) -> str:
    """Why a bundle is not sent; "" if it is."""
    try:
        check_transaction(bundle, NAMING)
    except Unsuitable as refused:
        return refused.sentence
    return ""


NUMBERS = (0.0, -0.0, -1.5, 0.1, 1e-9, 1e30, 5, 0, 10**400, True, None, "5.0", math.nan, math.inf)


@pytest.mark.parametrize("value", [*NUMBERS, [5.0], {"value": 5.0}], ids=repr)
@pytest.mark.parametrize("part", [0, 1])
def test_a_glance_at_a_number_sees_what_a_close_look_sees(value: object, part: int) -> None:
    check_transaction(good(), NAMING)  # so that everything but the number was right before
    bundle = good()
    included = entry(bundle, "BodyStructure")["resource"]["includedStructure"]
    included[0]["extension"][0]["extension"][part]["valueQuantity"]["value"] = value
    assert refusal(bundle) == refusal(in_another_order(bundle))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_was_right_before_hides_no_mistake(mutant: Mutant) -> None:
    check_transaction(good(), NAMING)
    assert (OURS in mutant.noticed_by) == we_notice(mutant)


def test_a_structure_of_other_numbers_is_right_with_them() -> None:
    assert not refusal(in_another_order(good()))
    bundle = good()
    one = entry(bundle, "BodyStructure")["resource"]["includedStructure"][0]
    del one["extension"][0]["extension"][1:]
    assert not refusal(bundle)
    one["extension"][0]["extension"] *= 2
    assert "one volume" in refusal(bundle)


def test_what_is_wrong_is_told_by_its_place_and_without_its_value() -> None:
    bundle = good()
    bundle["entry"][0]["resource"]["identifier"][0]["value"] = " Doe "
    with pytest.raises(Unsuitable) as refused:
        check_transaction(bundle, NAMING)
    assert "Patient.identifier[0].value" in refused.value.sentence
    assert "Doe" not in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.data())
def test_whatever_stands_anywhere_is_refused_or_taken_and_nothing_else(data: st.DataObject) -> None:
    bundle = good()
    where = bundle
    while isinstance(where, dict | list) and where:
        keys = list(where) if isinstance(where, dict) else range(len(where))
        key = data.draw(st.sampled_from(list(keys)))
        inner = where[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            where[key] = data.draw(JSON)
            break
        where = inner
    with suppress(Unsuitable):
        check_transaction(bundle, NAMING)


def we_notice(mutant: Mutant) -> bool:
    try:
        check_transaction(mutant.made(), NAMING)
    except Unsuitable:
        return True
    return False


def models_notice(mutant: Mutant) -> bool:
    try:
        Bundle.model_validate_json(json.dumps(mutant.made()))
    except ValidationError:
        return True
    return False


def test_the_good_one_passes_everybody_here() -> None:
    check_transaction(good(), NAMING)
    Bundle.model_validate_json(json.dumps(good()))
    assert len(SERIES.annotations) == 2
