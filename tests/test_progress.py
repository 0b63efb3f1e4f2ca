"""What long work says: a bar on a terminal, one line in a log file."""

import sys

import pytest

from ddim_keras.progress import duration, sampling_progress


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_for_people_and_a_line_for_log_files(is_terminal, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    progress = sampling_progress(num_batches=2, diffusion_steps=3)
    for _ in range(2):
        for step in range(3):
            progress(step, None, None)
    said = capsys.readouterr().out
    assert "6/6" in said
    assert ("1/6" in said) == is_terminal
    assert any(control in said for control in "\r\b\x1b") == is_terminal
    assert said.count("\n") == 1


def test_durations_for_people():
    assert [duration(seconds) for seconds in (5, 600, 11100)] == ["5 s", "10 min", "3 h 05 min"]
