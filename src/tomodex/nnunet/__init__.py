"""Runs models that nnU-Net trained, from their files alone.

    model.py       what a trained model wants and finds     checkpoint.py   its weights, safely
    network.py     its layers                               openvino.py     what runs them
    tiling.py      where it looks                           merging.py      what that comes to
    inference.py   image -> labels                          engine.py       a model, loaded

Whoever imports `tomodex.nnunet` loads OpenVINO with the first engine, not before.
"""
