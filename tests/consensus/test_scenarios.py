"""The interaction files in `scenarios/`: each tells a story and holds the trace of it all.

`pytest tests/consensus/test_scenarios.py --rewrite` writes the traces anew; the difference is to be
read line by line.
"""

from pathlib import Path

import pytest

from tests.support.cluster import tell_story

STORIES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_goes_as_written(path: Path, request: pytest.FixtureRequest) -> None:
    told = tell_story(path)

    if request.config.getoption("--rewrite"):
        path.write_text(told)
    assert told == path.read_text()


def test_there_are_stories() -> None:
    assert len(STORIES) >= 11
