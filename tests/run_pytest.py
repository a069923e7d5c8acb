"""What Bazel runs as a test: pytest on the files of the command line."""

import sys

import pytest

if __name__ == '__main__':
    sys.exit(pytest.main(sys.argv[1:]))
