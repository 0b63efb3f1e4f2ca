"""Functions in PyTorch, with the model and the device as arguments."""

import torch
from tqdm.auto import tqdm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cosine_diffusion_schedule(diffusion_times, device):
    start_angle = torch.acos(torch.tensor(0.95, device=device))
    end_angle = torch.acos(torch.tensor(0.02, device=device))
    angles = start_angle + diffusion_times * (end_angle - start_angle)
    return torch.sin(angles), torch.cos(angles)


def denoise(model, noisy_images, noise_rates, signal_rates):
    predicted_noises = model(noisy_images, (noise_rates**2).view(-1))
    predicted_images = (noisy_images - noise_rates * predicted_noises) / signal_rates
    return predicted_noises, predicted_images


@torch.no_grad()
def reverse_diffusion(model, initial_noise, diffusion_steps, device):
    model.eval()
    step_size = 1.0 / diffusion_steps
    x = initial_noise.to(device)
    for step in tqdm(range(diffusion_steps)):
        t = torch.ones((x.shape[0], 1, 1, 1), device=device) - step * step_size
        noise_rates, signal_rates = cosine_diffusion_schedule(t, device)
        noises, images = denoise(model, x, noise_rates, signal_rates)
        noise_rates, signal_rates = cosine_diffusion_schedule(t - step_size, device)
        x = signal_rates * images + noise_rates * noises
    return images


if __name__ == "__main__":
    raise SystemExit("this would train")
