"""Names of the functions to write for the two sheets."""

LAB = ("diffusion_schedule", "denoise", "reverse_diffusion", "train_step")
EXERCISE = ("sample_xt", "sample", "train", "train_classconditional")
OPTIONAL = ("train_step", "train_classconditional")
