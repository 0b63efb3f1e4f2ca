"""A checker for a student's solution of the lab or of the exercise.

`python -m ddim_keras.check my_lab.py` runs the student's functions in a child process, on inputs
whose results are known in closed form, and names the likely mistake. The stages: `source` reads the
file, `child` runs `experiments` on it and writes down what happened, `judge_lab` and
`judge_exercise` compare that with `closed_forms`, `mistakes` has the sentences, `report` prints.
"""
