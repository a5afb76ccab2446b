"""OpenVINO without its telemetry: everything here imports it from this module and nowhere else.

`import openvino` reports to Google Analytics that it was imported, unless the package
`openvino_telemetry` cannot be. A machine in a hospital reports nothing to anybody, so it cannot.
"""

from __future__ import annotations

import sys

# Python takes None for "not there", and OpenVINO then uses a stub that does nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# It is imported after that line on purpose.
import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

__all__ = ["ops", "ov"]
