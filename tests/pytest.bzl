"""A Bazel test that hands one file to pytest."""

load("@rules_python//python:defs.bzl", "py_test")

RUNNER = "tests/run_pytest.py"

def pytest_test(name, srcs, deps = [], data = [], **kwargs):
    """Runs the test functions of `srcs`, with the fixtures and helpers of //:testing."""
    py_test(
        name = name,
        srcs = srcs + [RUNNER],
        args = ["$(rootpath %s)" % src for src in srcs],
        data = data + ["pyproject.toml"],
        deps = deps + ["//:testing", "@pypi//pytest"],
        legacy_create_init = 0,  # Folders of tests are no packages.
        main = RUNNER,
        **kwargs
    )
