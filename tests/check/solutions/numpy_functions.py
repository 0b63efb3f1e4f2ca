"""Plain functions in NumPy; the network is an argument."""

import math

import numpy as np

max_signal_rate = 0.95
min_signal_rate = 0.02


def diffusion_schedule(diffusion_times):
    start_angle = math.acos(max_signal_rate)
    end_angle = math.acos(min_signal_rate)
    angles = start_angle + diffusion_times * (end_angle - start_angle)
    signal_rates = np.cos(angles)
    noise_rates = np.sin(angles)
    return noise_rates, signal_rates


def denoise(network, ema_network, noisy_images, noise_rates, signal_rates, training):
    chosen = network if training else ema_network
    pred_noises = chosen([noisy_images, noise_rates**2], training=training)
    pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates
    return pred_noises, pred_images


def reverse_diffusion(network, ema_network, initial_noise, diffusion_steps):
    step_size = 1.0 / diffusion_steps
    noisy_images = initial_noise
    for step in range(diffusion_steps):
        times = np.ones((len(initial_noise), 1, 1, 1)) - step * step_size
        noise_rates, signal_rates = diffusion_schedule(times)
        pred_noises, pred_images = denoise(
            network, ema_network, noisy_images, noise_rates, signal_rates, False
        )
        next_noise_rates, next_signal_rates = diffusion_schedule(times - step_size)
        noisy_images = next_signal_rates * pred_images + next_noise_rates * pred_noises
    return pred_images
