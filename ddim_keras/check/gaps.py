"""The names of the functions that the two sheets ask for."""

LAB = ("diffusion_schedule", "denoise", "reverse_diffusion", "train_step")
EXERCISE = ("sample_xt", "sample", "train", "train_classconditional")
OPTIONAL = ("train_step", "train_classconditional")
