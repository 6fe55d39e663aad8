"""Critics learn at their default rates on features of any size, as networks of torchvision and timm have them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import lctprune as lct
from lctprune.optim.optimizers import Optimizers, apply_gradients
from lctprune.utils.modules import packed

NETWORKS = (
    *("efficientnet_b0", "mobilenet_v3_small", "convnext_tiny", "vgg11", "densenet121", "squeezenet1_1", "resnet18"),
    *("regnet_y_400mf", "swin_t", "alexnet", "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224"),
)
SAMPLES, CLASSES, STEPS = 8, 4, 100


def features_of(network: lct.LocalCriticNetwork) -> list[torch.Tensor]:
    """Run the frozen groups, and give each channel a scale between 0.1 and 100, as trained EfficientNets have them."""
    x = torch.randn(SAMPLES, 3, 64, 64)
    found = []
    with torch.no_grad():
        for group, critic in zip(network.groups[:-1], network.critics, strict=True):
            x = packed(group(x))
            channels = 1 if x.dim() == 4 and not str(next(critic.children())).startswith("Permute") else x.dim() - 1
            shape = [size if place == channels else 1 for place, size in enumerate(x.shape)]
            found.append(x / x.std().clamp(min=1e-6) * 10 ** (3 * torch.rand(shape) - 1))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lctprune.errors.NetworkWarning")
@pytest.mark.parametrize("critic", ["auto", "tail"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_critic_ends_above_its_first_loss(name: str, critic: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    recipe = lct.NetworkConfig(model=name, groups=4, image_size=64, num_outputs=CLASSES, critic=critic)
    network = lct.build_network(recipe).eval()
    labels = torch.arange(SAMPLES) % CLASSES
    for freeze_main in (True, False):
        config = lct.TrainConfig(freeze_main=freeze_main, precision="fp32", device="cpu").resolved(pretrained=True)
        for index, features in enumerate(features_of(network)):
            module = network.critics[index].train()
            optimizer = Optimizers(torch.nn.Identity(), module, config).critic
            assert optimizer is not None
            losses = []
            for step in range(STEPS):
                loss = functional.cross_entropy(module(features), labels)
                loss.backward()
                apply_gradients(optimizer, config.lr * min(1.0, (step + 1) / 15))
                losses.append(loss.item())
            assert max(losses[-10:]) <= losses[0], f"critic {index} of {name}: {losses[0]:.2f} to {losses[-1]:.2f}"
