"""Says plainly that a browser is missing; in CI nothing may be missing."""

import os
import shutil

import pytest


@pytest.fixture(autouse=True)
def needs_chromium() -> None:
    if shutil.which("chromium") is None and os.environ.get("CI") != "true":
        pytest.skip("Chromium is not installed; run as root: deploy/install-test-tools.sh")
