"""The models that --arch names, as PyTorch modules whose tensors have the same names."""
import torch
from torch import nn
from torch.nn import functional as F


class OptionA(nn.Module):
    """Every second pixel, zero channels on both sides (He 2015)."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class Block(nn.Module):
    def __init__(self, inputs, width, stride, cifar):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != width:
            self.downsample = OptionA(width - inputs) if cifar else nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, cifar):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False),
                                            nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, blocks, cifar, kind=Block, channels=3, classes=10):
        super().__init__()
        self.cifar, inputs = cifar, 16 if cifar else 64
        self.conv1 = nn.Conv2d(channels, inputs, 3 if cifar else 7, 1 if cifar else 2,
                               1 if cifar else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        width, grow = inputs, 4 if kind is Bottleneck else 1
        for stage, count in enumerate(blocks, 1):
            layers = []
            for i in range(count):
                layers.append(kind(inputs, width, 2 if stage > 1 and i == 0 else 1, cifar))
                inputs = width * grow
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
            width *= 2
        self.stages = len(blocks)
        setattr(self, "linear" if cifar else "fc", nn.Linear(inputs, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.cifar:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return (self.linear if self.cifar else self.fc)(x.mean((2, 3)))


def resnet(name, **options):
    if name.endswith("-cifar"):
        return ResNet([(int(name[6:-6]) - 2) // 6] * 3, True, **options)
    blocks = {"resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3], "resnet50": [3, 4, 6, 3]}[name]
    return ResNet(blocks, False, Bottleneck if name == "resnet50" else Block, **options)


class TinyResNet(nn.Module):
    """MLPerf Tiny's ResNet-8: TensorFlow's SAME padding, Keras's names."""

    def __init__(self, classes=10):
        super().__init__()
        shapes = [(16, 3, 3, 1), (16, 16, 3, 1), (16, 16, 3, 1), (32, 16, 3, 2), (32, 32, 3, 1),
                  (32, 16, 1, 2), (64, 32, 3, 2), (64, 64, 3, 1), (64, 32, 1, 2)]
        for i, (out, inputs, kernel, stride) in enumerate(shapes):
            setattr(self, f"conv2d_{i}" if i else "conv2d", nn.Conv2d(inputs, out, kernel, stride))
        for i, width in enumerate([16, 16, 16, 32, 32, 64, 64]):
            setattr(self, f"batch_normalization_{i}" if i else "batch_normalization",
                    nn.BatchNorm2d(width, 1e-3))
        self.dense = nn.Linear(64, classes)

    def conv(self, i, x):
        layer = getattr(self, f"conv2d_{i}" if i else "conv2d")
        kernel, stride, n = layer.kernel_size[0], layer.stride[0], x.shape[-1]
        pad = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        return layer(F.pad(x, (pad // 2, pad - pad // 2) * 2))

    def norm(self, i, x):
        return getattr(self, f"batch_normalization_{i}" if i else "batch_normalization")(x)

    def forward(self, x):
        x = F.relu(self.norm(0, self.conv(0, x)))
        x = F.relu(x + self.norm(2, self.conv(2, F.relu(self.norm(1, self.conv(1, x))))))
        for conv, norm in ((3, 3), (6, 5)):
            y = F.relu(self.norm(norm, self.conv(conv, x)))
            y = self.norm(norm + 1, self.conv(conv + 1, y))
            x = F.relu(y + self.conv(conv + 2, x))
        return self.dense(x.mean((2, 3)))


class PlainViT(nn.Module):
    def __init__(self, patch=4, dim=128, depth=6, heads=8, mlp=256, size=32, channels=3,
                 classes=10):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, mlp, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.mlp_head(self.transformer(x)[:, 0])


class CNN(nn.Module):
    def __init__(self, layers, channels=3, classes=10):
        super().__init__()
        self.plan, number = [], 0
        for word in layers.split("-"):
            if word == "p":
                self.plan.append(None)
                continue
            number += 1
            setattr(self, f"conv{number}", nn.Conv2d(channels, int(word), 3, 1, 1, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(int(word)))
            channels = int(word)
            self.plan.append(number)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        for number in self.plan:
            if number is None:
                x = F.max_pool2d(x, 2)
            else:
                x = F.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        return self.fc(x.mean((2, 3)))


def mlp(widths, act=nn.ReLU):
    layers = [nn.Flatten()]
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), act()]
    return nn.Sequential(*layers[:-1])
