"""Renders the FHIR implementation guide: the profiles of ig/ with a site's own base, and with code
systems, value sets, concept maps and examples made from our own tables and code.

    python tools/render_ig.py FOLDER [--canonical https://hospital.example/fhir]

Nothing that is generated is kept in the repository, so that it cannot differ from what it is made
of.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tests.annotated import ONE

from tomodex.annotation import AnnotatedSeries, annotate
from tomodex.formats.fhir import Naming, Resource, indexed_series, observations, transaction
from tomodex.segmentation import Algorithm
from tomodex.terminology import Structure, Terminology, load_terminology

IG = Path(__file__).parent.parent / "ig"
BASE = Naming().base

SNOMED_COPYRIGHT = "This content includes SNOMED CT, which is copyright of SNOMED International."
RADLEX_COPYRIGHT = "This content includes RadLex, which is copyright of RSNA."

#: FHIR's relationship by the ISO/TR 12300 degree of a map; degree 5 has none.
RELATIONSHIPS = {
    1: "equivalent",
    2: "equivalent",
    3: "source-is-broader-than-target",
    4: "source-is-narrower-than-target",
}


def render(folder: Path, naming: Naming) -> None:
    """Write the guide, ready for SUSHI, into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    for file in [IG / "sushi-config.yaml", *sorted((IG / "input").rglob("*.fsh"))]:
        target = folder / file.relative_to(IG)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text().replace(BASE, naming.base))
    terms = load_terminology()
    generated = "\n".join(
        [
            *_code_system(terms),
            *_value_sets(terms),
            *_concept_map(terms, "Snomed", naming),
            *_concept_map(terms, "RadLex", naming),
        ]
    )
    (folder / "input/fsh/structures.fsh").write_text(generated + "\n")
    examples = folder / "input/examples"
    examples.mkdir(parents=True)
    for name, resource in example_resources(terms, naming).items():
        text = json.dumps(resource, indent=1, ensure_ascii=False)
        (examples / f"{name}.json").write_text(text + "\n")


def _code_system(terms: Terminology) -> Iterator[str]:
    yield "CodeSystem: Structure"
    yield "Id: structure"
    yield 'Title: "Structure"'
    yield 'Description: "Anatomical structures, by the names that segmentation models give them"'
    yield "* insert Meta"
    yield f"* ^version = {_quoted(terms.version)}"
    yield "* ^caseSensitive = true"
    yield "* ^content = #complete"
    yield "* ^valueSet = Canonical(StructureVS)"
    yield "* ^property[0].code = #laterality"
    yield "* ^property[0].type = #code"
    yield '* ^property[0].description = "left or right"'
    for one in terms.structures.values():
        yield f"* #{one.name} {_quoted(one.display)}"
        if one.display_de:
            yield "  * ^designation[0].language = #de"
            yield f"  * ^designation[0].value = {_quoted(one.display_de)}"
        if one.laterality:
            yield "  * ^property[0].code = #laterality"
            yield f"  * ^property[0].valueCode = #{one.laterality}"


def _value_sets(terms: Terminology) -> Iterator[str]:
    yield from _value_set("StructureVS", "structure", "Structures", "Every structure", "")
    yield "* include codes from system Structure"
    title = "Structures in SNOMED CT"
    yield from _value_set("StructureSnomedVS", "structure-snomed", title, title, SNOMED_COPYRIGHT)
    for code, display in _codes(terms, "Snomed").items():
        yield f"* $SCT#{code} {_quoted(display)}"
    title = "Structures in RadLex"
    yield from _value_set("StructureRadLexVS", "structure-radlex", title, title, RADLEX_COPYRIGHT)
    for code, display in _codes(terms, "RadLex").items():
        yield f"* $RADLEX#{code} {_quoted(display)}"


def _value_set(name: str, id_: str, title: str, said: str, copyright_: str) -> Iterator[str]:
    yield f"ValueSet: {name}"
    yield f"Id: {id_}"
    yield f"Title: {_quoted(title)}"
    yield f"Description: {_quoted(said)}"
    yield "* insert Meta"
    if copyright_:
        yield f"* ^copyright = {_quoted(copyright_)}"


def _codes(terms: Terminology, system: str) -> dict[str, str]:
    """Every code that is published, once."""
    published = [_code(one, system) for one in terms.structures.values()]
    return {code: display for code, display, _ in published if code}


def _code(one: Structure, system: str) -> tuple[str, str, int]:
    """Code, display and degree; where the code has no side of its own, ours is narrower."""
    if system == "Snomed":
        degree = 4 if one.snomed_modifier or one.site_code else one.snomed_degree
        return one.snomed, one.snomed_display, degree
    return one.radlex, one.radlex_display, one.radlex_degree


def _concept_map(terms: Terminology, system: str, naming: Naming) -> Iterator[str]:
    target = {"Snomed": "http://snomed.info/sct", "RadLex": "http://radlex.org"}[system]
    yield f"Instance: StructureTo{system}"
    yield "InstanceOf: ConceptMap"
    yield "Usage: #definition"
    yield f'* url = "{naming.base}/ConceptMap/structure-to-{system.lower()}"'
    yield f'* id = "structure-to-{system.lower()}"'
    yield f'* name = "StructureTo{system}"'
    yield f'* title = "Structures in {system}"'
    yield "* status = #draft"
    yield "* experimental = false"
    yield f"* version = {_quoted(terms.version)}"
    copyright_ = SNOMED_COPYRIGHT if system == "Snomed" else RADLEX_COPYRIGHT
    yield f"* copyright = {_quoted(copyright_)}"
    yield f'* sourceScopeCanonical = "{naming.base}/ValueSet/structure"'
    yield f'* group[0].source = "{naming.labels}"'
    yield f'* group[0].target = "{target}"'
    for number, one in enumerate(terms.structures.values()):
        element = f"* group[0].element[{number}]"
        yield f"{element}.code = #{one.name}"
        code, display, degree = _code(one, system)
        if not code or degree not in RELATIONSHIPS:
            yield f"{element}.noMap = true"
            continue
        yield f"{element}.target[0].code = #{code}"
        yield f"{element}.target[0].display = {_quoted(display)}"
        yield f"{element}.target[0].relationship = #{RELATIONSHIPS[degree]}"


def example_series(terms: Terminology) -> Mapping[str, AnnotatedSeries]:
    """Series as the pipeline annotates them: many structures, none, MR, and one that waits."""
    names = [one.name for one in terms.structures.values() if one.total_class is not None]
    measurement = ONE.annotations[0].measurement
    full = replace(
        ONE,
        series=replace(
            ONE.series,
            series_uid="2.25.98237498237498237498237498237498231",
            study_uid="2.25.138547289347598237459823745982374598",
            patient="8c1f0b6de7a94a5f92d0c3e4b5a69788",
            attributes={"StudyDate": "2025-11-03", "SeriesNumber": 3.0},
        ),
        annotations=annotate(dict.fromkeys(names, measurement), terms),
        provenance=replace(
            ONE.provenance,
            algorithm=Algorithm(
                name="TotalSegmentator",
                version="2.0.4",
                model="total 3 mm (Dataset297)",
                weights_sha256="0" * 64,
                options={"mode": "exact", "step": "0.8"},
            ),
        ),
    )
    other = "2.25.98237498237498237498237498237498232"
    return {
        "full": full,
        "empty": replace(full, annotations=()),
        "mr": replace(full, series=replace(full.series, modality="MR", series_uid=other)),
        "waiting": replace(
            full,
            image=None,
            annotations=(),
            provenance=replace(full.provenance, algorithm=None),
        ),
    }


def example_resources(terms: Terminology, naming: Naming) -> dict[str, Resource]:
    """Transactions in both modes, the resources of one, and two Observations."""
    made: dict[str, Resource] = {}
    series = example_series(terms)
    for name, annotated in series.items():
        for mode in ("put", "conditional"):
            bundle = transaction(annotated, [indexed_series(annotated)], naming, mode)
            profile = naming.profile("tomodex-transaction")
            made[f"bundle-{name}-{mode}"] = {
                "resourceType": "Bundle",
                "id": f"{name}-{mode}",
                "meta": {"profile": [profile]},
                **{key: value for key, value in bundle.items() if key != "resourceType"},
            }
    for entry in made["bundle-full-put"]["entry"]:
        resource = entry["resource"]
        made[resource["resourceType"].lower()] = resource
    one = replace(series["full"], annotations=series["full"].annotations[:1])
    for number, observation in enumerate(observations(one, naming)):
        made[f"observation-{number}"] = observation
    return made


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--canonical", default=BASE)
    asked = parser.parse_args()
    render(asked.folder, Naming(base=asked.canonical.rstrip("/")))
