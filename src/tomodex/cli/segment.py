"""`tomodex segment`: masks of a series, for whoever asks for them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tomodex.cli.shared import Json, print_json, print_out, settings_of_run


class FormName(StrEnum):
    """The forms of `segmenting.Form`, as typer wants them."""

    seg = "seg"
    seg_binary = "seg-binary"
    sr = "sr"
    nifti = "nifti"
    nrrd = "nrrd"
    statistics = "statistics"


class PackingName(StrEnum):
    """The packings of `formats.dicom_seg.Packing`, as typer wants them."""

    native = "native"
    rle = "rle"
    deflated = "deflated"


def segment(
    series: Annotated[
        str, typer.Argument(help="A SeriesInstanceUID that is known, or a folder with one series.")
    ],
    to: Annotated[
        str, typer.Option(metavar="URL", help="A folder, or the URL of a bucket or an archive.")
    ],
    structures: Annotated[
        str, typer.Option(metavar="NAMES", help="Such as liver,spleen; all if not given.")
    ] = "all",
    form: Annotated[
        list[FormName] | None,
        typer.Option("--as", help="In which form; may be given more than once."),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="One NIfTI or NRRD file for each structure.")
    ] = False,
    packing: Annotated[
        PackingName, typer.Option(help="How the pixels of DICOM SEG are packed.")
    ] = PackingName.native,
    source: Annotated[
        str, typer.Option(metavar="SOURCE", help="The source that has it, if it was never listed.")
    ] = "",
    segmenter: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A segmenter; may be given more than once."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make masks of a series and put them into a folder, a bucket or an archive."""
    from tomodex.mask_orders import Order, deliver_order

    settings = settings_of_run(segmenters=segmenter)
    order = Order(
        series=series,
        source=source,
        structures=tuple(structures.split(",")),
        forms=tuple(one.value for one in form or [FormName.seg]),
        files="each" if each else "together",
        packing=packing.value,
        to=to,
    )
    delivered = deliver_order(settings, order)
    if as_json:
        print_json(delivered)
        return
    many = len(delivered.structures)
    print_out(f"{many} structure{'s' * (many != 1)} of {delivered.series_uid}")
    if delivered.missing:
        print_out(f"not found: {', '.join(delivered.missing)}")
    print_out(*delivered.places)
