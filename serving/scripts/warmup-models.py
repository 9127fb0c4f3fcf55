"""What runbooks type for `python -m mlplatform_serving.tools.warmup`."""

import sys

from mlplatform_serving.tools.warmup import main

if __name__ == "__main__":
    sys.exit(main())
