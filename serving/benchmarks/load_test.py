"""What runbooks type for `python -m mlplatform_serving.tools.load_test`."""

import sys

from mlplatform_serving.tools.load_test import main

if __name__ == "__main__":
    sys.exit(main())
