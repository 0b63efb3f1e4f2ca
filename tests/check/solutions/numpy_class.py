"""A NumPy class without arguments, with names of its own, and the network in one object."""

import numpy as np


class Solver:
    rates = (0.95, 0.02)

    def __init__(self):
        self.net = load_network("weights.npz")
        self.net_average = load_network("average.npz")
        self.first, self.last = np.arccos(self.rates)

    def diffusionSchedule(self, times):
        angles = np.interp(times, [0, 1], [self.first, self.last])
        return np.sin(angles), np.cos(angles)

    def _predict(self, x, variances, training):
        return (self.net if training else self.net_average)(x, variances)

    def denoise(self, noisy, noise, signal, training=False):
        eps = self._predict(noisy, np.square(noise), training)
        return eps, (noisy - noise * eps) / signal

    def reverseDiffusion(self, noise, steps):
        x = noise.copy()
        times = 1 - np.arange(steps + 1) / steps
        for now, later in zip(times[:-1], times[1:]):
            eps, clean = self.denoise(x, *self.diffusionSchedule(np.full((len(x), 1, 1, 1), now)))
            noise_rate, signal_rate = self.diffusionSchedule(later)
            x = signal_rate * clean + noise_rate * eps
        return clean


def load_network(name):
    raise FileNotFoundError(name)
