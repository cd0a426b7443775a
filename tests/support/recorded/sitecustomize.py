"""Python imports this at the start of each process whose PYTHONPATH has this folder."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location(
    "tests_recording", Path(__file__).parent.parent / "recording.py"
)
assert spec is not None
assert spec.loader is not None
sys.modules["tests_recording"] = recording = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recording)
recording.record_this_process()
