"""Generated files say what their sources say."""

import pytest

from docs.generate import GENERATED, ROOT


@pytest.mark.parametrize("place", GENERATED)
def test_generated_file_is_up_to_date(place):
    assert (ROOT / place).read_text() == GENERATED[place](), "run: python -m docs.generate"
