"""A PyTorch module whose training step keeps an average by deepcopy."""

import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels + 1, channels, 3, padding=1)

    def forward(self, x, v):
        return self.conv(torch.cat([x, v.expand(-1, 1, *x.shape[2:])], dim=1))


class DDIM(nn.Module):
    MAX, MIN = 0.95, 0.02

    def __init__(self, channels=3, ema_decay=0.995):
        super().__init__()
        self.model = Net(channels)
        self.ema_model = copy.deepcopy(self.model)
        self.decay = ema_decay
        self.register_buffer("ends", torch.acos(torch.tensor([self.MAX, self.MIN])))

    def diffusion_schedule(self, diffusion_times):
        angle = torch.lerp(self.ends[0], self.ends[1], diffusion_times)
        return angle.sin(), angle.cos()

    def denoise(self, noisy_images, noise_rates, signal_rates, training):
        model = self.model if training else self.ema_model
        pred_noises = model(noisy_images, noise_rates.pow(2))
        return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

    @torch.no_grad()
    def reverse_diffusion(self, initial_noise, diffusion_steps):
        x = initial_noise
        for i in reversed(range(1, diffusion_steps + 1)):
            t = torch.full((len(x), 1, 1, 1), i / diffusion_steps)
            eps, x0 = self.denoise(x, *self.diffusion_schedule(t), training=False)
            noise_rates, signal_rates = self.diffusion_schedule(t - 1 / diffusion_steps)
            x = signal_rates * x0 + noise_rates * eps
        return x0

    def train_step(self, images, optimizer):
        noises = torch.randn_like(images)
        times = torch.rand(len(images), 1, 1, 1)
        noise_rates, signal_rates = self.diffusion_schedule(times)
        noisy = signal_rates * images + noise_rates * noises
        pred_noises, _ = self.denoise(noisy, noise_rates, signal_rates, training=True)
        loss = F.mse_loss(pred_noises, noises)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, weight in zip(self.ema_model.parameters(), self.model.parameters()):
                average.mul_(self.decay).add_(weight, alpha=1 - self.decay)
        return loss.item()


def count(model):
    return sum(math.prod(p.shape) for p in model.parameters())
