"""The exercise in NumPy: the forward process and sampling."""

import numpy as np


def sample_xt(x0, t, epsilon, alphaBars):
    if epsilon is None:
        epsilon = np.random.randn(*x0.shape)
    bar = np.reshape(alphaBars[t], (-1, 1, 1, 1))
    return np.sqrt(bar) * x0 + np.sqrt(1 - bar) * epsilon


def sample(ddpm, n_samples, classes=None):
    labels = None if classes is None else np.repeat(classes, n_samples)
    count = n_samples if classes is None else len(labels)
    x = np.random.randn(count, 16, 16, 1)
    for t in range(ddpm.n_steps - 1, -1, -1):
        steps = np.full(count, t)
        noise = ddpm.network(x, steps) if labels is None else ddpm.network(x, steps, labels)
        beta, bar = ddpm.betas[t], ddpm.alphaBars[t]
        z = np.random.randn(*x.shape) if t > 0 else np.zeros_like(x)
        sigma = np.sqrt(beta)
        x = (x - beta / np.sqrt(1 - bar) * noise) / np.sqrt(1 - beta) + sigma * z
    return x
