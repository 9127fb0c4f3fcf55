"""`python -m fuzz`: atheris, until something is found or the time is over."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["mlplatform_serving"]):
    from fuzz.inference import one_input

atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
