from __future__ import annotations

import pytest

from tests.nnunet_models import old_plans, write_model
from tests.test_nnunet_engine import stand_in
from tomodex.nnunet.cost import Cost, count_costs, least_seconds
from tomodex.nnunet.model import read_model


def test_a_tile_of_totalsegmentators_3_mm_model_takes_736_gflop():
    model = read_model(stand_in("standin_297"))
    costs = count_costs(model.architecture, model.patch)
    # Counted with hooks on torch's layers: 735.6e9 for all convolutions and the last layer.
    last = 2 * 118 * 32 * 112 * 112 * 128
    assert sum(cost.flop for cost in costs) == pytest.approx(735.6e9 - last, rel=0.003)


def test_every_convolution_is_counted(tmp_path):
    plans = old_plans((3, 6), n_conv_per_stage_encoder=[1, 1], n_conv_per_stage_decoder=[1])
    model = read_model(write_model(tmp_path, plans))
    fine, coarse = 8 * 12 * 16, 4 * 6 * 8
    convolutions = [
        2 * 27 * 1 * 3 * fine,
        2 * 27 * 3 * 6 * coarse,
        2 * 6 * 3 * fine,
        2 * 27 * 6 * 3 * fine,
    ]
    norms = [7 * 3 * fine, 7 * 6 * coarse, 7 * 3 * fine]
    found = [cost.flop for cost in count_costs(model.architecture, model.patch)]
    assert sorted(found) == sorted([*convolutions, *norms, 0, 2 * 3 * fine])


def test_a_residual_network_counts_its_ways_round(tmp_path):
    costs = [
        sum(cost.numbers for cost in count_costs(model.architecture, model.patch))
        for model in (
            read_model(write_model(tmp_path / kind, old_plans(kind=kind)))
            for kind in ("PlainConvUNet", "ResidualEncoderUNet")
        )
    ]
    assert costs[1] > 1.2 * costs[0]


def test_a_step_takes_as_long_as_what_limits_it():
    computes, moves = Cost(flop=8_000, numbers=1), Cost(flop=1, numbers=500)
    assert least_seconds([computes, moves], 1000, 100, 2) == pytest.approx(8 + 10)
