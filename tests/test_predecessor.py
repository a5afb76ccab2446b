"""The predecessor's messages in its segmentation mode."""

from __future__ import annotations

import json

import pytest

from tomodex.errors import BadQuery
from tomodex.predecessor import mask_order_of

#: As its documentation has it; `s3-output` is of the same shape as `s3-input`.
MESSAGE = {
    "identification": {"mpi": "123456789", "series": "1.2.3.4.5.6.7.8", "study": "1.2.3.4.5.6"},
    "s3-input": {"s3-bucket": "landing-ct-indexer", "s3-path": "test.zip"},
    "s3-output": {"s3-bucket": "masks", "s3-path": "of/test 1.zip"},
}


def order(**changed):
    return mask_order_of(json.dumps({**MESSAGE, **changed}).encode())


def test_a_message_orders_what_the_predecessor_stored_where_it_stored_it():
    made = order()
    assert (made.series, made.source) == ("1.2.3.4.5.6.7.8", "s3://landing-ct-indexer/test.zip")
    assert (made.structures, made.forms) == (("all",), ("nifti", "statistics"))
    assert (made.files, made.folder) == ("each", "none")
    assert made.to == "s3://masks/of/test%201.zip"


@pytest.mark.parametrize("path", ["of/test", "of/test/", "of/test//"])
def test_the_path_is_the_folder_of_the_files(path):
    assert (
        order(**{"s3-output": {"s3-bucket": "masks", "s3-path": path}}).to == "s3://masks/of/test"
    )


def test_whose_it_is_is_not_kept():
    assert "123456789" not in order().model_dump_json()


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (json.dumps({**MESSAGE, "s3-output": None}).encode(), "s3-output"),
        (json.dumps({**MESSAGE, "identification": {"series": "../etc"}}).encode(), "series"),
        (
            json.dumps({**MESSAGE, "s3-output": {"s3-bucket": "a/../b", "s3-path": "x"}}).encode(),
            "s3-bucket",
        ),
    ],
)
def test_what_is_no_order_is_refused_without_quoting_it(message, where):
    with pytest.raises(BadQuery, match=where) as refused:
        mask_order_of(message)
    assert "123456789" not in str(refused.value)
    assert "etc" not in str(refused.value)


def test_a_message_without_output_is_no_order_of_masks():
    index_only = {k: v for k, v in MESSAGE.items() if k != "s3-output"}
    with pytest.raises(BadQuery, match="s3-output"):
        mask_order_of(json.dumps(index_only).encode())
