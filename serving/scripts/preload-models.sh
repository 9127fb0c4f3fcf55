#!/bin/sh
''':'
# Both a shell script and a Python program: runbooks type `python scripts/preload-models.sh`, and an
# init container may run it either way. Flags, and what it does: --help.
exec "${PYTHON:-python3}" -m mlplatform_serving.tools.preload "$@"
'''
import runpy

runpy.run_module("mlplatform_serving.tools.preload", run_name="__main__")
