"""What viewers learn of a crowd, and that an adversary among them does not learn of one person.

Each attack is made twice: on the protection as it is, and without the part that is to stop it,
where it has to succeed, as it would prove nothing otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crowded import MANUFACTURERS, STRUCTURES, Hospital
from tomodex.access import Asker
from tomodex.answered import AnsweredCrowds
from tomodex.auditlog import AuditLog
from tomodex.cohorts import Cohorts
from tomodex.disclosure import COUNTED, Disclosure, Told, require_coarse
from tomodex.errors import BadQuery, Forbidden
from tomodex.search import FIELDS, Has, parse
from tomodex.search.crowd import Crowd, bits_of
from tomodex.search.language import MAX_CHARACTERS
from tomodex.terminology import load_terminology

EVE = Asker(name="eve", roles=frozenset({"viewer"}))
KEY = b"secret of the site"
K = 10

#: Accuracy that is near chance for some hundred decisions: 0.5, and three standard errors.
NEAR_CHANCE = 0.6


# --- a hospital, and ways to take a protection away ---------------------------------------------


class Forgetful(AnsweredCrowds):
    """Remembers no crowd, so that none is answered as another."""

    def nearest(self, crowd: Crowd, reach: float) -> Crowd:
        return crowd


class Blunt(Disclosure):
    """Has the same threshold for all crowds."""

    def _enough(self, crowd: Crowd) -> int:
        return self.fewest


class Wordy(Disclosure):
    """Draws the threshold anew whenever it is asked."""

    asked = 0

    def _enough(self, crowd: Crowd) -> int:
        self.asked += 1
        return self.fewest + 1 + int(self._draw("enough", str(self.asked).encode()) * self.fewest)


class Exact(Disclosure):
    """Tells the number of patients as it is, from the threshold on."""

    def _told(self, cell: str, term: object, crowd: Crowd) -> Told:
        shown = crowd.patients >= self.fewest
        return Told(patients=crowd.patients, series=crowd.series) if shown else Told()


class Careless(Exact):
    """Tells every number."""

    def _told(self, cell: str, term: object, crowd: Crowd) -> Told:
        return Told(patients=crowd.patients, series=crowd.series)


def protected(fewest: int = K) -> Disclosure:
    return Disclosure(KEY, fewest, AnsweredCrowds(None, 10**9))


def hospital(seed: int = 1, size: int = 4000) -> Hospital:
    """Half of these people are patients of it; the other half is not."""
    return Hospital(seed=seed, size=size, there=np.random.default_rng(seed).random(size) < 0.5)


def cohorts_of(index: Hospital, disclosure: Disclosure) -> Cohorts:
    nothing: Any = None
    asked: Any = index
    return Cohorts(asked, load_terminology(), nothing, disclosure)


# --- an adversary -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """What the adversary knows of somebody: enough to tell them from all others."""

    number: int
    sex: str
    decade: str
    year: str
    maker: str
    shows: tuple[str, ...]
    lacks: tuple[str, ...]

    def facts(self) -> list[str]:
        """Each is true of many."""
        return [
            self.sex,
            self.decade,
            self.year,
            self.maker,
            *self.shows,
            *(f"not {name}" for name in self.lacks),
        ]

    def alone(self) -> str:
        """True of them alone."""
        return " and ".join(self.facts())


def person(index: Hospital, number: int) -> Person:
    age = int(index.age[number])
    shown = index.shown[number]
    return Person(
        number=number,
        sex="women" if index.female[number] else "men",
        decade=f"PatientAge {age // 5 * 5}..{age // 5 * 5 + 5}",
        year=f"StudyDate = {index.year[number]}",
        maker=f'Manufacturer = "{MANUFACTURERS[index.maker[number]]}"',
        shows=tuple(name for name, there in zip(STRUCTURES, shown, strict=True) if there),
        lacks=tuple(name for name, there in zip(STRUCTURES, shown, strict=True) if not there),
    )


def unique(index: Hospital, many: int) -> list[Person]:
    """People, patients or not, whom nobody else is like."""
    everybody = Hospital(seed=index.seed, size=index.size, there=np.ones(index.size, np.bool_))
    found = []
    for number in range(index.size):
        one = person(index, number)
        alone = parse(one.alone(), load_terminology())
        if everybody.matching(alone.term).sum() == 1:
            found.append(one)
        if len(found) == many:
            break
    return found


#: Questions about a person that come in pairs: one that they are in, if they are a patient, and
#: one that is the same without them.
Pairs = Callable[[Person, np.random.Generator], Iterator[tuple[str, str]]]


def leave_out(one: Person, random: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Many, with and without the one."""
    while True:
        facts = one.facts()
        some = random.choice(len(facts), int(random.integers(1, 4)), replace=False)
        many = " and ".join(facts[n] for n in some)
        yield many, f"({many}) and not ({one.alone()})"


def add(one: Person, random: np.random.Generator) -> Iterator[tuple[str, str]]:
    """A tracker (Denning 1979): many that they are not among, alone and with them."""
    while True:
        others = [f"not {name}" for name in one.shows] + list(one.lacks)
        some = random.choice(len(others), int(random.integers(1, 3)), replace=False)
        many = " and ".join(others[n] for n in some)
        yield f"({many}) or ({one.alone()})", many


def rephrase(one: Person, random: np.random.Generator) -> Iterator[tuple[str, str]]:
    """The same as to leave them out, in words that mean the same in every hospital."""
    for many, without in leave_out(one, random):
        padding = [f"not ({name} and not {name})" for name in random.permutation(STRUCTURES)[:2]]
        yield f"{many} and {padding[0]}", f"{without} and {padding[1]}"


Answers = Callable[[Cohorts, str], object]


def by_counts(cohorts: Cohorts, text: str) -> object:
    return cohorts.counts(EVE, text)


def by_facets(cohorts: Cohorts, text: str) -> object:
    return cohorts.facets(EVE, text, ("PatientSex", "StudyYear", "structure"))


def accuracy(
    disclosure: Disclosure,
    pairs: Pairs,
    answer: Answers = by_counts,
    people: int = 40,
    each: int = 8,
) -> float:
    """How often the adversary is right on who is a patient, of those who are and those who are not.

    Whoever changes an answer by being in a question is taken for a patient.
    """
    index = hospital()
    cohorts = cohorts_of(index, disclosure)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for one in unique(index, people):
        asked = islice(pairs(one, np.random.default_rng(one.number)), each)
        changed = any(answer(cohorts, a) != answer(cohorts, b) for a, b in asked)
        patient = bool(index.there[one.number])
        right[patient].append(changed == patient)
    return float(np.mean([np.mean(right[True]), np.mean(right[False])]))


# --- differencing -------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [leave_out, add, rephrase])
def test_pairs_of_questions_do_not_tell_who_is_a_patient(pairs):
    assert accuracy(protected(), pairs) <= NEAR_CHANCE


@pytest.mark.parametrize("pairs", [leave_out, add, rephrase])
def test_they_would_if_crowds_that_are_nearly_the_same_were_not_answered_alike(pairs):
    forgetful = Disclosure(KEY, K, Forgetful(None, 10**9))
    assert accuracy(forgetful, pairs) >= 0.9


def test_facets_do_not_tell_either():
    assert accuracy(protected(), leave_out, by_facets, people=60, each=1) <= NEAR_CHANCE
    forgetful = Blunt(KEY, K, Forgetful(None, 10**9))
    assert accuracy(forgetful, leave_out, by_facets, people=16, each=2) >= 0.9


def alone(one: Person, random: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Them, and nobody."""
    yield one.alone(), f"({one.alone()}) and PatientAge > 150"


def test_a_question_about_one_person_is_answered_like_one_about_nobody():
    assert accuracy(protected(), alone) == 0.5
    assert accuracy(Careless(KEY, K, Forgetful(None, 10**9)), alone) == 1.0


def crowd(keys: Any, series: int = 3) -> Crowd:
    many = len(keys)
    return Crowd(patients=many, bits=bits_of(keys), series=series * many, studies=2 * many)


def random_keys(random: np.random.Generator, many: int) -> Any:
    return random.integers(0, 2**64, many, np.uint64)


def question(number: int) -> Has:
    return Has(keyword="Manufacturer", values=(str(number),))


@pytest.mark.parametrize("apart", [1, 9, 12, 16])
def test_one_person_more_changes_answers_no_more_often_than_other_words_do(apart):
    """Even to an adversary who knows how far the crowd is from one that was told of before."""
    random = np.random.default_rng(apart)
    changed = {True: 0, False: 0}
    for _ in range(150):
        keys = random_keys(random, 200)
        told = keys[:100]
        asked = keys[apart // 2 : 100 + apart - apart // 2]
        for patient in changed:
            disclosure = Disclosure(random.bytes(16), K, AnsweredCrowds(None, 10**9))
            disclosure.tell(EVE, None, crowd(told))
            others = disclosure.tell(EVE, question(1), crowd(asked))
            with_them = np.append(asked, keys[-1:]) if patient else asked
            changed[patient] += disclosure.tell(EVE, question(2), crowd(with_them)) != others
    assert abs(changed[True] - changed[False]) / 150 <= 0.15  # three standard errors: 0.16
    if apart == 1:
        assert changed == {True: 0, False: 0}


def test_one_person_more_does_not_make_a_small_crowd_a_large_one():
    """Whoever had 20 told of, and asks for 10 of them, learns whether the tenth is there."""
    told = {number: 0 for number in (9, 10, 11, 12)}
    for seed in range(100):
        random = np.random.default_rng(seed)
        keys = random_keys(random, 20)
        for number in told:
            disclosure = Disclosure(random.bytes(16), K, AnsweredCrowds(None, 10**9))
            disclosure.tell(EVE, None, crowd(keys))
            answer = disclosure.tell(EVE, question(seed), crowd(keys[:number]))
            told[number] += answer.patients is not None
    assert (told[9], told[10]) == (0, 0)
    assert told[11] <= 25
    assert abs(told[12] - told[11]) <= 25


def last_is_told(kind: type[Disclosure], wordings: int) -> float:
    """How often an adversary who knows all of a small crowd but one finds out about that one.

    They ask for it in so many wordings, and know how often a crowd with the one is told of.
    """
    random, right = np.random.default_rng(4), []
    for turn in range(200):
        keys, patient = random_keys(random, int(random.integers(11, 20))), turn % 2 == 0
        asked = crowd(keys if patient else keys[:-1])
        disclosure = kind(random.bytes(16), K, AnsweredCrowds(None, 10**9))
        told = [disclosure.tell(EVE, question(n), asked) != Told() for n in range(wordings)]
        middle = (len(keys) - K - 0.5) / K
        right.append((np.mean(told) > middle) == patient)
    return float(np.mean(right))


def test_asking_in_many_other_words_does_not_tell_whether_a_small_crowd_has_one_more():
    assert last_is_told(Disclosure, 60) <= NEAR_CHANCE
    assert last_is_told(Wordy, 60) >= 0.75


def test_asking_in_many_other_words_does_not_tell_how_near_a_crowd_is_to_another():
    """Nor does it with one person more: what was answered once is answered so again."""
    random = np.random.default_rng(1)
    for _ in range(20):
        keys = random_keys(random, 200)
        disclosure = Disclosure(random.bytes(16), K, AnsweredCrowds(None, 10**9))
        disclosure.tell(EVE, None, crowd(keys[:100]))
        asked = keys[7:107]
        told = {
            disclosure.tell(EVE, question(number), crowd(some))
            for number in range(40)
            for some in (asked, np.append(asked, keys[-1:]))
        }
        assert len(told) == 1


# --- small numbers ------------------------------------------------------------------------------


def test_fewer_than_the_threshold_are_all_answered_like_nobody():
    disclosure, random = protected(), np.random.default_rng(1)
    told = {disclosure.tell(EVE, None, crowd(random_keys(random, n))) for n in range(K)}
    assert told == {Told()}
    cells = {str(n): crowd(random_keys(random, n)) for n in range(K)}
    assert disclosure.tell_cells(EVE, None, {"Manufacturer": cells}) == {"Manufacturer": {}}


def test_patients_are_counted_and_not_their_series():
    """Ten X-rays of one person are one person."""
    keys = random_keys(np.random.default_rng(1), 3)
    assert protected().tell(EVE, None, crowd(keys, series=1000)) == Told()


@given(st.integers(K, 3000), st.integers(0, 2**32), st.sampled_from([2, 5, 10, 25]))
def test_numbers_are_near_the_right_ones_and_rounded(patients, seed, fewest):
    keys = random_keys(np.random.default_rng(seed), patients)
    told = protected(fewest).tell(EVE, None, crowd(keys))
    if told.patients is None:
        assert patients < 2 * fewest
        return
    assert told.patients % fewest == 0
    assert abs(told.patients - patients) <= 2 + fewest / 2
    assert told.series is not None
    assert abs(told.series / told.patients - 3) <= 0.1 * 3 + 0.05 * 3 + 0.01


def test_asking_again_gives_the_same_so_that_noise_cannot_be_averaged_away():
    keys = random_keys(np.random.default_rng(3), 137)
    disclosure = protected()
    told = {disclosure.tell(EVE, question(n), crowd(np.roll(keys, n))) for n in range(200)}
    assert len(told) == 1
    # So after a restart, and with everything that was told forgotten.
    assert protected().tell(EVE, None, crowd(keys)) in told


def test_another_sites_noise_is_another():
    keys = [random_keys(np.random.default_rng(n), 135) for n in range(40)]
    one, other = (
        [Disclosure(key, K, AnsweredCrowds(None, 10**9)).tell(EVE, None, crowd(k)) for k in keys]
        for key in (b"one", b"other")
    )
    assert one != other


# --- what is withheld does not follow from the rest ---------------------------------------------


def hidden_is_told(disclosure_of: Callable[[], Disclosure]) -> float:
    """How often it can be told whether a withheld cell is empty, from the total and the other."""
    random, right = np.random.default_rng(5), []
    for turn in range(200):
        women, men = random_keys(random, int(random.integers(100, 200))), turn % 2 * 5
        everybody = np.concatenate([women, random_keys(random, men)])
        disclosure = disclosure_of()
        total = disclosure.tell(EVE, question(turn), crowd(everybody)).patients
        cells = disclosure.tell_cells(
            EVE, question(turn), {"PatientSex": {"F": crowd(women), "M": crowd(everybody[:men])}}
        )["PatientSex"]
        assert total is not None
        assert cells["F"].patients is not None
        right.append((total - cells["F"].patients > 2) == (men > 0))
    return float(np.mean(right))


def test_a_withheld_cell_does_not_follow_from_the_total_and_the_others():
    assert abs(hidden_is_told(protected) - 0.5) <= 0.1
    assert hidden_is_told(lambda: Exact(KEY, K, Forgetful(None, 10**9))) == 1.0


def test_a_withheld_value_does_not_stand_alone():
    """Neither where few have it nor where nobody does, so that it tells nothing of either."""
    known = {"PatientSex": ("F", "M", "O")}
    keys = [random_keys(np.random.default_rng(n), many) for n, many in enumerate((300, 200, 5))]
    all_three = {sex: crowd(some) for sex, some in zip("FMO", keys, strict=True)}
    for cells in (all_three, {sex: all_three[sex] for sex in "FM"}):
        told = protected().tell_cells(EVE, question(1), {"PatientSex": cells}, known)["PatientSex"]
        assert list(told) == ["F"]
    two_withheld = {"F": all_three["F"], "O": all_three["O"]}
    told = protected().tell_cells(EVE, question(1), {"PatientSex": two_withheld}, known)
    assert list(told["PatientSex"]) == ["F"]


def test_a_viewer_who_asks_for_one_of_two_values_is_told_of_neither():
    cohorts = cohorts_of(hospital(), protected())
    assert {cell.value for cell in cohorts.facets(EVE, "", ("PatientSex",))["PatientSex"]} == {
        "F",
        "M",
    }
    assert cohorts.facets(EVE, "women", ("PatientSex",)) == {"PatientSex": ()}
    # What a series can show several of does not add up, so nothing follows from the rest.
    everything = cohorts.facets(EVE, "", ("structure",))["structure"]
    without_one = cohorts.facets(EVE, f"not {everything[0].value}", ("structure",))["structure"]
    assert len(without_one) == len(everything) - 1


def test_values_that_few_have_are_listed_nowhere():
    shown = cohorts_of(hospital(), protected())
    leaky = cohorts_of(hospital(), Careless(KEY, 1, Forgetful(None, 10**9)))
    field = "ManufacturerModelName"
    ways: list[Callable[[Cohorts], set[str]]] = [
        lambda c: {cell.value for cell in c.facets(EVE, "", (field,))[field]},
        lambda c: {cell.value for cell in c.values(EVE, field)},
        lambda c: {cell.value for cell in c.values(EVE, field, "mod")},
        lambda c: {one.text for one in c.completions(EVE, f"{field} = ", len(field) + 3)},
    ]
    for way in ways:
        assert not {value for value in way(shown) if "Model " in value}
        assert {value for value in way(leaky) if "Model " in value}
    assert {cell.value for cell in shown.values(EVE, field)} == {"Usual"}


def test_the_order_of_values_follows_from_the_numbers_that_are_told():
    facets = cohorts_of(hospital(), protected()).facets(EVE, "", ("structure",))["structure"]
    assert len(facets) > 5
    keys = [random_keys(np.random.default_rng(n), many) for n, many in enumerate((102, 98, 100))]
    cells = dict(zip("cba", map(crowd, keys), strict=True))
    told = protected().tell_cells(EVE, None, {"x": cells})["x"]
    assert list(told) == sorted(told, key=lambda v: (-(told[v].patients or 0), v))


# --- other ways ---------------------------------------------------------------------------------


class Untouchable:
    """An index that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked of the index")


def untouched() -> Cohorts:
    index: Any = Untouchable()
    return Cohorts(index, load_terminology(), index, protected())


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.series(EVE, "liver"),
        lambda c: c.series(EVE, "liver", limit=1, offset=10**6),
        lambda c: c.strips(EVE, "liver"),
        lambda c: list(c.rows(EVE, "liver")),
        lambda c: c.one(EVE, "1.2.3"),
    ],
    ids=["series", "page", "strips", "export", "one"],
)
def test_single_series_are_refused_before_anybody_looks_for_them(ask):
    """So neither what is said nor how long it takes depends on what is there."""
    with pytest.raises(Forbidden, match="researcher or steward"):
        ask(untouched())


@pytest.mark.parametrize(
    "text",
    [
        "SeriesInstanceUID = 1.2.3",
        "StudyInstanceUID = 1.2.3",
        "SeriesDescription = *Doe*",
        "SeriesNumber = 3",
        "size_bytes > 5",
        "CTDIvol > 5.217",
        "PatientAge = 37",
        "PatientAge 40..61",
        "StudyDate = 2025-03-14",
        "StudyDate = 2025-03",
        "StudyDate 2024..2025-06",
        "StudyDate > 2025-06-01",
        "not (liver or SliceThickness = 0.7)",
        "liver volume > 1501",
        "liver mean 50..51",
        "kidney volume > 123 above liver",
        "liver volume > 1234.5 between (kidney, sacrum)",
        "livre",
        "liver and",
        "PatientSex > F",
        "ManufacturerModelNam = x",
    ],
)
def test_what_is_wrong_with_a_question_is_said_without_a_look_at_the_data(text):
    """So no suggestion and no delay tells what is there."""
    for ask in (untouched().counts, lambda a, t: untouched().facets(a, t, ("PatientSex",))):
        with pytest.raises(BadQuery):
            ask(EVE, text)


@pytest.mark.parametrize(
    "text",
    [
        "whole sacrum, women 40-60, slices <= 1.5 mm",
        "liver volume 1000..2000 ml",
        "spleen volume > 0.3 l and spleen mean < 40",
        "StudyDate = 2025",
        "StudyDate 2020..2025 and not StudyDate = 2022",
        "StudyDate >= 2020",
        "StudyDate > 2020",
        "StudyDate < 2020",
        'Manufacturer = "SIEMENS" or ConvolutionKernel = Br*',
        "left autochthonous back muscle between heart and L1",
        "",
    ],
)
def test_what_is_true_of_many_may_be_asked(text):
    require_coarse(parse(text, load_terminology()).term)


def test_fields_that_could_name_a_person_are_not_counted():
    assert set(COUNTED) <= set(FIELDS)
    for field in set(FIELDS) - set(COUNTED) | {"nonsense"}:
        with pytest.raises(BadQuery, match="not listed for viewers"):
            untouched().facets(EVE, "liver", (field,))


def test_the_whole_index_is_not_counted_for_each_letter_that_is_typed(monkeypatch):
    index = hospital()
    counted: list[tuple[str, ...]] = []
    crowds = Hospital.crowds
    monkeypatch.setattr(
        Hospital, "crowds", lambda self, q, f: counted.append(tuple(f)) or crowds(self, q, f)
    )
    cohorts = cohorts_of(index, protected())
    told = [
        cohorts.completions(EVE, f"PatientSex = {typed}", 13 + len(typed)) for typed in ("", "F")
    ]
    assert told[0]
    cohorts.facets(EVE, "", ("PatientSex", "StudyYear"))
    cohorts.facets(EVE, "liver", ("PatientSex",))
    assert counted == [("PatientSex",), ("StudyYear",), ("PatientSex",)]


def test_a_structure_that_few_show_is_not_told_from_one_that_nobody_shows():
    cohorts = cohorts_of(hospital(size=16), protected())
    assert {one.series for one in cohorts.anatomy(EVE)} == {None}


def test_how_much_is_in_the_index_is_rounded_and_when_the_newest_is_from_not_said():
    index = hospital()
    told = cohorts_of(index, protected()).totals(EVE)
    assert told.patients % K == 0
    assert abs(told.patients - index.there.sum()) <= 7
    assert told.newest is None


def test_who_asks_too_much_in_a_day_waits_for_the_next():
    now = [0.0]
    disclosure = Disclosure(KEY, K, AnsweredCrowds(None, 20, now=lambda: now[0]))
    cohorts = cohorts_of(hospital(size=100), disclosure)
    for _ in range(16):
        cohorts.counts(EVE, "liver")
    cohorts.facets(EVE, "liver", ("PatientSex", "StudyYear", "structure", "Manufacturer"))
    with pytest.raises(Forbidden, match="20 questions a day"):
        cohorts.counts(EVE, "liver")
    # What does not depend on a question, such as what a page shows first, is free.
    cohorts.facets(EVE, "", ("PatientSex",))
    now[0] += 86_400
    cohorts.counts(EVE, "liver")


def test_a_researcher_is_told_numbers_as_they_are():
    index = hospital()
    counts = cohorts_of(index, protected()).counts(
        Asker(name="ada", roles=frozenset({"researcher"})), ""
    )
    assert (counts.patients, counts.rounded) == (int(index.there.sum()), False)


def test_a_refused_question_fills_no_disk(tmp_path):
    """It is not read, so it may be of any length."""
    log = AuditLog(tmp_path / "audit.jsonl")
    nothing: Any = Untouchable()
    cohorts = Cohorts(nothing, load_terminology(), nothing, protected(), log)
    with pytest.raises(Forbidden):
        cohorts.series(EVE, "x" * 100_000)
    (entry,) = log.entries()
    assert (entry.act, entry.text) == ("refused", "x" * MAX_CHARACTERS)


def test_without_a_policy_viewers_learn_nothing():
    index: Any = Untouchable()
    with pytest.raises(Forbidden):
        Cohorts(index, load_terminology(), index).counts(EVE, "liver")


# --- crowds -------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32))
def test_it_can_be_told_how_far_crowds_are_apart(common, only_one, only_other, seed):
    random = np.random.default_rng(seed)
    both = random_keys(random, common)
    one = crowd(np.concatenate([both, random_keys(random, only_one)]))
    other = crowd(np.concatenate([both, random_keys(random, only_other)]))
    apart = only_one + only_other
    if apart <= 1:
        assert one.distance(other) == apart
    else:
        assert apart * 0.2 <= one.distance(other) <= apart * 2.2


def crowds_in(file: Path) -> list[tuple[int]]:
    with closing(apsw.Connection(str(file))) as db:
        return db.execute("select patients from crowd order by id").fetchall()


def test_crowds_that_were_not_used_for_long_are_forgotten_and_others_are_not(tmp_path):
    now, file = [0.0], tmp_path / "answered.db"
    answered = AnsweredCrowds(file, 10, now=lambda: now[0], most_crowds=3)
    random = np.random.default_rng(1)
    kept, old, *more = [crowd(random_keys(random, 100 * n)) for n in range(1, 6)]
    for one in (kept, old):
        answered.nearest(one, 10)
    now[0] += 300 * 86_400
    answered.nearest(kept, 10)
    now[0] += 200 * 86_400
    answered.nearest(more[0], 10)
    assert crowds_in(file) == [(100,), (300,)]
    for one in more[1:]:
        answered.nearest(one, 10)
    now[0] += 86_400
    answered.nearest(more[0], 10)
    assert crowds_in(file) == [(300,), (400,), (500,)]


def test_crowds_of_an_earlier_version_are_still_known(tmp_path):
    file = tmp_path / "answered.db"
    keys = random_keys(np.random.default_rng(1), 40)
    told = AnsweredCrowds(file, 10).nearest(crowd(keys), 10)
    with closing(apsw.Connection(str(file))) as db:
        db.execute("alter table crowd drop column day")
    assert AnsweredCrowds(file, 10).nearest(crowd(keys[1:]), 10) == told


def test_what_was_told_is_kept_as_numbers_alone(tmp_path):
    file = tmp_path / "answered.db"
    keys = random_keys(np.random.default_rng(1), 40)
    told = AnsweredCrowds(file, 10).nearest(crowd(keys), 10)
    assert file.stat().st_mode & 0o777 == 0o600
    octets = b"".join(part.read_bytes() for part in tmp_path.iterdir())
    assert not any(key.tobytes() in octets for key in keys)
    # Another process, or a later one, answers by it.
    assert AnsweredCrowds(file, 10).nearest(crowd(keys[1:]), 10) == told
