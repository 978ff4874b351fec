"""Says plainly which test needs a program that is not here; in CI nothing may be missing."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def needs_mosquitto(request: pytest.FixtureRequest) -> None:
    has_mosquitto = shutil.which("mosquitto") or Path("/usr/sbin/mosquitto").is_file()
    if "mosquitto" in request.node.name and not has_mosquitto and os.environ.get("CI") != "true":
        pytest.skip("mosquitto is not installed; run as root: deploy/install-test-tools.sh")
