"""The tables of the index as people ask them in SQL, by the names that everything has elsewhere.

They are made beside the file, which is attached as `tomodex` and only read.
"""

from __future__ import annotations

from tomodex.instance import Kind
from tomodex.search import SEARCHABLE


def _shown(keyword: str, kind: Kind) -> str:
    # Text is stored as the number of a word; a list finds it without a join for each attribute.
    return (
        f'getvariable(\'words\')["{keyword}"] as "{keyword}"' if kind == "text" else f'"{keyword}"'
    )


#: What has to be there before the views are asked.
WORDS = """
set variable words = (
    select list(w.value order by n.number)
    from (select unnest(range(1, (select max(number) + 1 from tomodex.word)::bigint)) as number) n
    left join tomodex.word w on w.number = n.number
)
"""

#: `series_number` is in both, to join by: it is compared faster than a UID.
SERIES_VIEW = f"""
create view series as select
    number as series_number,
    series_uid as "SeriesInstanceUID",
    study_uid as "StudyInstanceUID",
    nullif(pseudonym, '') as patient,
    structure_count,
    {", ".join(_shown(keyword, kind) for keyword, kind in SEARCHABLE.items())}
from tomodex.series
"""

ANNOTATIONS_VIEW = """
create view annotations as select
    a.series as series_number,
    l.structure,
    a.complete,
    a.volume_ml,
    a.mean_hu,
    a.bottom_mm,
    a.top_mm
from tomodex.annotation a join tomodex.label l on l.number = a.structure
"""
