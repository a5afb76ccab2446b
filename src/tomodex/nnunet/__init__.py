"""Runs models that nnU-Net trained, from their files alone.

    model.py       what a trained model wants and finds     checkpoint.py   its weights, safely
    unet.py        its layers, in order                     tiling.py       where it looks
    inference.py   image -> labels                          engine.py       a model, loaded
    runtime.py     what runs it and adds up what it says:
      network.py, openvino.py, merging.py                   OpenVINO on the CPU
      torch_*.py                                            torch on a GPU

Whoever imports `tomodex.nnunet` loads OpenVINO with the first engine, not before, and torch only
with an engine for a GPU.
"""
