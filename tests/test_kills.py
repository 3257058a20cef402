"""Training that is killed and started again, in short; see benchmarks/kills.py."""

import pytest

from benchmarks import kills


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["vae", "vae-batches", "layers", "vae-weights", "keras"]
)
def test_no_kill_loses_a_training_and_all_end_equal(case):
    found = kills.main(["--kills", "5", "--cases", case])[case]
    assert found.kills == 5
    assert (found.failed, found.litter) == (0, 0)
    assert found.equal == found.runs > 0
    assert found.repeated <= 1
