"""What runbooks type for `python -m mlplatform_serving.tools.convert`."""

import sys

from mlplatform_serving.tools.convert import main

if __name__ == "__main__":
    sys.exit(main())
