"""JAX: compiled functions, parameters passed beside the network, a loop of lax."""

import functools

import jax
import jax.numpy as jnp

SCHEDULE = {"max_signal_rate": 0.95, "min_signal_rate": 0.02}


@jax.jit
def diffusion_schedule(diffusion_times):
    start = jnp.arccos(SCHEDULE["max_signal_rate"])
    end = jnp.arccos(SCHEDULE["min_signal_rate"])
    angle = (end - start) * diffusion_times + start
    return jnp.sin(angle), jnp.cos(angle)


def denoise(apply_fn, params, noisy_images, noise_rates, signal_rates):
    pred_noises = apply_fn(params, noisy_images, noise_rates**2)
    return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates


def reverse_diffusion(apply_fn, params, initial_noise, diffusion_steps):
    shape = (initial_noise.shape[0], 1, 1, 1)

    def step(index, carry):
        noisy_images, _ = carry
        time = 1.0 - index / diffusion_steps
        rates = diffusion_schedule(jnp.full(shape, time))
        noises, images = denoise(apply_fn, params, noisy_images, *rates)
        noise_rates, signal_rates = diffusion_schedule(jnp.full(shape, time - 1 / diffusion_steps))
        return signal_rates * images + noise_rates * noises, images

    start = (initial_noise, jnp.zeros_like(initial_noise))
    return jax.lax.fori_loop(0, diffusion_steps, step, start)[1]


partial_schedule = functools.partial(diffusion_schedule)
