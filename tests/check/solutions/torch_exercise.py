"""The exercise in PyTorch with a ddpm that is not in the file: functions of the sheet alone."""

import torch
import torch.nn.functional as F


def sample_xt(x0, t, epsilon, alphaBars):
    if epsilon is None:
        epsilon = torch.randn_like(x0)
    a = alphaBars[t].reshape(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * epsilon


@torch.no_grad()
def sample(ddpm, n_samples, classes: list[int] = None):
    total = n_samples * (len(classes) if classes is not None else 1)
    x = torch.randn(total, *ddpm.image_chw)
    y = None if classes is None else torch.tensor(classes).repeat_interleave(n_samples)
    for t in reversed(range(ddpm.n_steps)):
        time = torch.full((total,), t, dtype=torch.long)
        eps = ddpm.backward(x, time) if y is None else ddpm.backward(x, time, y)
        alpha, bar = ddpm.alphas[t], ddpm.alpha_bars[t]
        x = (x - (1 - alpha) / (1 - bar).sqrt() * eps) / alpha.sqrt()
        if t > 0:
            x = x + ddpm.betas[t].sqrt() * torch.randn_like(x)
    return x


def train(ddpm, loader, n_epochs, optim, device):
    for epoch in range(n_epochs):
        total = 0.0
        for x0, _ in loader:
            x0 = x0.to(device)
            t = torch.randint(0, ddpm.n_steps, (len(x0),), device=device)
            eps = torch.randn_like(x0)
            xt = sample_xt(x0, t, eps, ddpm.alpha_bars)
            loss = F.mse_loss(ddpm.backward(xt, t), eps)
            optim.zero_grad()
            loss.backward()
            optim.step()
            total += loss.item() * len(x0) / len(loader.dataset)
        print(f"epoch {epoch}: {total:.3f}")


def train_classconditional(ddpm, loader, n_epochs, optim, device):
    for _ in range(n_epochs):
        for x0, y in loader:
            t = torch.randint(0, ddpm.n_steps, (len(x0),))
            eps = torch.randn_like(x0)
            loss = F.mse_loss(ddpm.backward(sample_xt(x0, t, eps, ddpm.alpha_bars), t, y), eps)
            optim.zero_grad()
            loss.backward()
            optim.step()
