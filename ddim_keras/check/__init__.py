"""Checker for a student's solution of the lab or the exercise.

`python -m ddim_keras.check my_lab.py` runs the student's functions in a child process, on inputs
whose results are known in closed form, and names the likely mistake. The stages: `source` reads the
file, `child` runs `experiments` on it and records the results, `judge_lab` and `judge_exercise`
compare them with `closed_forms`, `mistakes` has the sentences, `report` prints.
"""
