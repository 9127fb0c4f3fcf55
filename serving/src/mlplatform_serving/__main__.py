"""``python -m mlplatform_serving``: so far it can only say which version it is."""

import argparse
from importlib.metadata import version


def main() -> None:
    """Parse the arguments; there is nothing to serve yet, and the help says so."""
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform_serving",
        description="The model server of mlplatform. A skeleton: it serves nothing yet.",
    )
    parser.add_argument("--version", action="version", version=version("mlplatform-serving"))
    parser.parse_args()
    parser.error("there is nothing to serve yet; only --version works")


if __name__ == "__main__":
    main()
