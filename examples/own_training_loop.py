"""Local critic training in a loop of one's own: `local_critic_backward` takes the place of `loss.backward()`.

python own_training_loop.py
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import lctprune as lct

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8]
labels = torch.tensor(digits.target)
train, val = slice(0, 1500), slice(1500, None)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(64 * 2 * 2, 10),
)
network = lct.attach_critics(model, images[:1], num_outputs=10, groups=3)
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)

for epoch in range(3):
    network.train()
    for batch in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        losses = lct.local_critic_backward(network, images[train][batch], labels[train][batch])
        optimizer.step()
    network.eval()
    with torch.no_grad():
        right = [(output.argmax(1) == labels[val]).float().mean() for output in network.exits(images[val])]
    print(f"epoch {epoch + 1}: validation accuracy of each exit", *(f"{accuracy:.1%}" for accuracy in right))

torch.save(network.main_state_dict(), "backbone.pt")  # the trained main network, under the original model's names
