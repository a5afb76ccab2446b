"""Series of some patients, enough to ask every way of asking the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import AnnotatedSeries

#: Questions that find all, some, one and none of them.
QUESTIONS = (
    "",
    "liver",
    "liver complete",
    "spleen complete and PatientSex = F",
    "not spleen",
    "women 40-60",
    "liver cut or spleen volume > 205 ml",
    "SliceThickness <= 1.5 and StudyDate >= 2026-01-01",
    "gallbladder",
    "StudyDate = 2026-01-08",
)


def series(n: int) -> AnnotatedSeries:
    """The nth: of one of seven patients, with a liver, every second time with a spleen."""
    image = ONE.image
    assert image is not None
    liver = replace(
        LIVER, measurement=replace(LIVER.measurement, volume_ml=1500.0 + n, cut=_cut(n))
    )
    spleen = replace(SPLEEN, measurement=replace(SPLEEN.measurement, volume_ml=200.0 + n))
    return replace(
        ONE,
        series=replace(
            ONE.series,
            series_uid=f"1.2.9.{n}",
            study_uid=f"1.2.8.{n // 2}",
            patient=f"pseudonym-{n % 7}",
            fingerprint=f"f{n}",
            attributes={
                "Modality": "CT",
                "PatientSex": "FM"[n % 2],
                "PatientAge": 30.0 + n,
                "StudyDate": f"2026-01-{n // 2 + 1:02}",
                "SliceThickness": (1.0, 1.5, 5.0)[n % 3],
                "Manufacturer": ("ACME", "Ümlaut, =Ltd", '"q"#')[n % 3],
            },
        ),
        annotations=(liver, spleen) if n % 2 else (liver,),
    )


def corpus(size: int = 30) -> Sequence[AnnotatedSeries]:
    """So many of them."""
    return [series(n) for n in range(size)]


def _cut(n: int) -> tuple[str, ...]:
    return ("inferior",) if n % 3 == 0 else ()
