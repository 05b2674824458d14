# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # PixelCNN on MNIST, from the mask to digits on demand
#
# What you build here: a masked convolution of your own, checked for leaks; a PixelCNN of such layers; its likelihood,
# which is a cross-entropy; samples; and a conditional PixelCNN, W * x + b + V y in every layer, that draws the digit
# you name. Some minutes on two CPU cores; a GPU is used if there is one.
#
# The first cell installs the zoo where it is not there yet, as on Colab. (Before its first release: from a clone, with
# `%pip install -q .` in place of the name.)

# %%
import importlib.util

if importlib.util.find_spec("zoo") is None:
    # %pip install -q pixelzoo
    pass

# %%
import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.checking import check, seen_from
from zoo.data import to_grid
from zoo.data.mnist import mnist
from zoo.pictures import grid
from zoo.training import precision

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
dtype = precision("auto", device)  # bfloat16 where the processor computes in it, float32 elsewhere
print("on", device, "in", dtype)

# %% [markdown]
# ## The data
#
# MNIST comes with the zoo. A pixel is 1 where its grey level is above one half, else 0 (protocol `threshold`).

# %%
train, validation = mnist("train"), mnist("validation")
images = to_grid(train.images, "threshold")
grid(images[:40], columns=10, labels=None)

# %% [markdown]
# ## 1. A masked convolution
#
# $p(x) = \prod_i p(x_i \mid x_{<i})$: the output for a pixel may see the pixels before it in raster order, and
# nothing else. A convolution looks both ways; a mask on its kernel takes away what comes later. Type A, for the first
# layer, hides the centre too: that is the pixel to be predicted. Type B shows it: from the second layer on, the
# centre holds features of *earlier* pixels.


# %%
class MyMaskedConv2d(nn.Conv2d):
    """A convolution whose kernel is zero from the centre on (A), or after it (B)."""

    def __init__(self, mask_type, *args, **kwargs):
        super().__init__(*args, **kwargs)
        rows, columns = self.kernel_size
        mask = torch.ones(rows, columns)
        mask[rows // 2, columns // 2 + (mask_type == "B") :] = 0
        mask[rows // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


figure, axes = plt.subplots(1, 2, figsize=(5, 2.4), layout="constrained")
for axis, mask_type in zip(axes, "AB", strict=True):
    axis.imshow(MyMaskedConv2d(mask_type, 1, 1, 7, padding=3).mask, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=f"type {mask_type}", xticks=[], yticks=[])

# %% [markdown]
# Is it right? Do not look at samples to find out: a leak makes the loss *better*. `zoo check` perturbs inputs and
# takes gradients, and says which pixels reach an output that must not. (On the command line: `zoo check
# homework.py:MyPixelCNN`.)


# %%
def my_pixelcnn(mask_type="A", channels=32, layers=4):
    net = [MyMaskedConv2d(mask_type, 1, channels, 7, padding=3), nn.ReLU()]
    for _ in range(layers):
        net += [MyMaskedConv2d("B", channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*net, MyMaskedConv2d("B", channels, 1, 1))


for mask_type in "AB":
    report = check(my_pixelcnn(mask_type), (1, 28, 28))
    print(f"first layer of type {mask_type}: causal: {report.causal}, leaks: {report.leaks}")

# %% [markdown]
# The second one shows the centre in its first layer, and is caught: offset (0, 0), the pixel itself.
#
# ## 2. What it sees, and its blind spot
#
# Stack 3x3 layers under the 7x7 one, and the field grows by one row up and one column to each side per layer. But to
# the right it grows *only* on the way up, so that a wedge beside it is never seen, however many layers there are.
# That is the blind spot, which the Gated PixelCNN removes by two stacks, one of which sees whole rows.

# %%
place = (20, 14)
plain, gated = my_pixelcnn(layers=6), zoo.create("gated-pixelcnn", channels=8, layers=6)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for axis, (name, model) in zip(axes, {"plain": plain, "gated": gated}.items(), strict=True):
    axis.imshow(seen_from(model, place), cmap="Blues", vmin=0, vmax=1)
    axis.plot(place[1], place[0], "s", color="C3", markersize=5)
    axis.set(title=f"{name}: what reaches the red pixel", xticks=[], yticks=[])

# %% [markdown]
# ## 3. Likelihood and training
#
# For pixels in {0, 1} the negative log-likelihood of an image *is* the cross-entropy of the pixels with the outputs,
# summed over positions (`docs/theory.md` has every step). So training is five lines. We take the zoo's layers from
# here on: the same convolution, but it never computes what the mask kills, and it can be sampled fast. `zoo.create`
# stacks them as you just did, with residual connections and dilated kernels.


# %%
def nll(model, x, labels=None):
    """Nats per image: the cross-entropy, summed over pixels, averaged over images."""
    context = model.condition(len(x), labels) if model.conditional else None
    with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
        logits = model(x, context)
    return F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum") / len(x)


def fit(model, seconds, batch=32, rate=6e-3):
    """Adam for so many seconds, its rate annealed to zero; returns the curve."""
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.99))
    curve, began = [], time.monotonic()
    while (done := (time.monotonic() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = rate * (1 - done)
        chosen = torch.randint(len(images), (batch,))
        loss = nll(model, images[chosen].to(device), train.labels[chosen].to(device) if model.conditional else None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    model.eval()
    return curve


size = {"channels": 32, "layers": 6, "dilations": [1, 2, 4, 8, 1, 2]}
model = zoo.create("pixelcnn", **size)
curve = fit(model, seconds=60)

# %%
smooth = torch.tensor(curve).unfold(0, 20, 1).mean(1)
plt.figure(figsize=(6, 3))
plt.plot(smooth)
plt.ylim(55, 120)
plt.xlabel("steps")
plt.ylabel("nats per training image")
plt.grid(alpha=0.3)

# %%
held_out = to_grid(validation.images[:1000], "threshold").to(device)
with torch.no_grad():
    log_prob = torch.cat([model.log_prob(part) for part in held_out.split(100)])
nats = -log_prob.mean().item()
print(f"{nats:.1f} nats per validation image, {nats / (784 * 0.693147):.3f} bits per pixel; a coin would cost 543.4")

# %% [markdown]
# ## 4. Samples
#
# Drawing is sequential: a pixel needs those before it. The textbook makes 784 passes over the whole image. The zoo
# draws front by front, each of which holds pixels that do not depend on each other, and computes nothing twice: the
# same distribution, the same draws, some hundred times faster. One parallel pass verifies them.

# %%
began = time.monotonic()
x = model.sample(40, seed=0)
print(f"40 samples in {time.monotonic() - began:.2f} s")
began = time.monotonic()
slow = model.sample(2, seed=0, sampler="naive")
print(f"2 samples by 784 passes in {time.monotonic() - began:.2f} s; the same: {torch.equal(slow, x[:2])}")
grid(x, columns=10)

# %% [markdown]
# ## 5. "Reconstruction" is not generation
#
# Give the model a validation image, take the most probable value of each pixel *given the true pixels before it*
# (teacher forcing), and it looks perfect. Nothing was generated: each guess was corrected before the next one. Below:
# true images; the teacher-forced guess; the model on its own from the middle row on.

# %%
truth = held_out[:10]
with torch.no_grad():
    guess = (model(truth).sigmoid() > 0.5).float()
half = truth.clone()
half[:, :, 14:] = float("nan")  # to be drawn
alone = model.sample(10, given=half, seed=0)
wrong = (guess != truth).float().sum((1, 2, 3)).mean().item()
print(f"teacher-forced, {wrong:.0f} of 784 pixels are guessed wrong")
grid(torch.cat([truth, guess, alone]), columns=10)

# %% [markdown]
# ## 6. Conditional PixelCNN
#
# Every layer gets a bias that depends on the class, W * x + b + V y, with y one-hot: a column of V for each digit. In
# the zoo it is one argument. (To see where it went: `print(model)`, and look for `ConditionalBias`.)

# %%
conditional = zoo.create("pixelcnn", num_classes=10, **size)
fit(conditional, seconds=60)
labels = validation.labels[:1000].to(device)
with torch.no_grad():
    log_prob = torch.cat(
        [conditional.log_prob(x, y) for x, y in zip(held_out.split(100), labels.split(100), strict=True)]
    )
    wrong_label = torch.cat(
        [conditional.log_prob(x, (y + 1) % 10) for x, y in zip(held_out.split(100), labels.split(100), strict=True)]
    )
print(f"told the digit: {-log_prob.mean():.1f} nats; told a wrong one: {-wrong_label.mean():.1f}; not told: {nats:.1f}")

# %% [markdown]
# The digit itself can tell no more than log 10 = 2.3 nats. What is gained beyond that, or lost, is a matter of how
# well each of the two was trained.
#
# ## 7. The digit you name
#
# Ten samples for each digit, a row each: first those of the model you trained for a minute, then those of the zoo's
# `cond-pixelcnn-mnist`, which was trained for twelve.

# %%
ten_of_each = [digit for digit in range(10) for _ in range(10)]
grid(conditional.sample(100, ten_of_each, seed=0), columns=10, labels=ten_of_each)

# %%
trained = zoo.load("cond-pixelcnn-mnist").to(device)
grid(trained.sample(100, ten_of_each, seed=0), columns=10, labels=ten_of_each)
