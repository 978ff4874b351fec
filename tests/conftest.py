"""Options that all tests share."""

import pytest
from hypothesis import settings

settings.register_profile("wattstreet", deadline=None)  # a busy machine is no failure
settings.load_profile("wattstreet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write the traces of tests/consensus/scenarios anew; review the difference",
    )
