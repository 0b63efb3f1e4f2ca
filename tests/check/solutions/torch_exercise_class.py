"""The exercise in PyTorch with the class of the model in the file, and beta-tilde for sigma."""

import torch
from torch import nn


class MyDDPM(nn.Module):
    def __init__(self, network, n_steps=200, min_beta=1e-4, max_beta=0.02, device="cpu",
                 image_chw=(1, 28, 28)):
        super().__init__()
        self.n_steps = n_steps
        self.device = device
        self.image_chw = image_chw
        self.network = network.to(device)
        self.betas = torch.linspace(min_beta, max_beta, n_steps).to(device)
        self.alphas = 1 - self.betas
        self.alphaBars = torch.cumprod(self.alphas, 0).to(device)

    def forward(self, x0, t, eta=None):
        return sample_xt(x0, t, eta, self.alphaBars)

    def backward(self, x, t):
        return self.network(x, t)


def sample_xt(x0, t, epsilon, alphaBars):
    if epsilon is None:
        epsilon = torch.randn_like(x0)
    shape = (-1,) + (1,) * (x0.ndim - 1)
    mean = torch.sqrt(alphaBars)[t].view(shape) * x0
    return mean + torch.sqrt(1 - alphaBars)[t].view(shape) * epsilon


def sample(ddpm, n_samples):
    ddpm.eval()
    with torch.no_grad():
        x = torch.randn(n_samples, 1, 28, 28).to(ddpm.device)
        for t in range(ddpm.n_steps - 1, -1, -1):
            steps = (torch.ones(n_samples, 1) * t).long()
            noise = ddpm.backward(x, steps)
            bar, beta = ddpm.alphaBars[t], ddpm.betas[t]
            # The posterior mean of the predicted image.
            x0 = (x - (1 - bar).sqrt() * noise) / bar.sqrt()
            x0 = x0.clamp(-1, 1)
            before = ddpm.alphaBars[t - 1] if t > 0 else torch.tensor(1.0)
            mean = (
                before.sqrt() * beta / (1 - bar) * x0
                + ddpm.alphas[t].sqrt() * (1 - before) / (1 - bar) * x
            )
            variance = beta * (1 - before) / (1 - bar)
            x = mean + variance.sqrt() * torch.randn_like(x) if t > 0 else mean
    return x


def train(ddpm, loader, n_epochs, optim, device):
    mse = nn.MSELoss()
    ddpm.train()
    for _ in range(n_epochs):
        for batch in loader:
            x0 = batch[0].to(device)
            n = len(x0)
            eta = torch.randn_like(x0).to(device)
            t = torch.randint(0, ddpm.n_steps, (n,)).to(device)
            noisy = ddpm(x0, t, eta)
            loss = mse(ddpm.backward(noisy, t.reshape(n, -1)), eta)
            optim.zero_grad()
            loss.backward()
            optim.step()
