"""The plain way to write the same step: what a reader of the papers would do first.

Labeled, strong and weak views go through the model with gradients, in one batch or one after the
other; the weak half is then detached. The MAE branch embeds all patches, restores their order and
predicts all of them. The optimizer is a loop. Views are PIL transforms in a DataLoader.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.ours import Ours
from semimae.backbones.blocks import set_plain_attention
from semimae.data.loader import TrainViews
from semimae.mim.mae import MAE
from semimae.patches import patchify


class Baseline:
    """Takes model, batch and numbers from ``Ours``; the code of the step is its own."""

    def __init__(self, ours: Ours, *, concatenate: bool, rejected: float) -> None:
        self.concatenate, self.batch, self.autocast = concatenate, ours.batch, ours.autocast
        self.model = copy.deepcopy(ours.model)
        self.model.backbone.trim = False
        # As the older codes compute it; on a GPU torch's fused one would be the plain choice.
        set_plain_attention(self.model, ours.device.type == "cpu")
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        o = ours.cell.optim
        self.decay, self.clip = ours.cell.train.ema_decay, o.grad_clip
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=o.lr,
            betas=o.betas,
            weight_decay=o.weight_decay,
            foreach=False,
            fused=False,
        )
        places = torch.arange(len(self.batch.weak), device=ours.device)
        self.weight = (places >= rejected * len(places)).float()

    def step(self) -> None:
        """Make one step."""
        batch = self.batch
        sizes = [len(batch.labeled), len(batch.strong), len(batch.weak)]
        with self.autocast():
            if self.concatenate:
                logits = self.model(torch.cat([batch.labeled, batch.strong, batch.weak]))
                labeled, strong, weak = logits.split(sizes)
            else:
                labeled, strong = self.model(batch.labeled), self.model(batch.strong)
                with torch.no_grad():
                    weak = self.model(batch.weak)
            supervised = functional.cross_entropy(labeled.float(), batch.labels)
            pseudo = weak.detach().softmax(dim=-1).argmax(dim=-1)
            each = functional.cross_entropy(strong.float(), pseudo, reduction="none")
            total = supervised + (each * self.weight).mean() + self.reconstruction()
        self.optimizer.zero_grad()
        total.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    old = self.average[name]
                    old.copy_(old * self.decay + value * (1 - self.decay))

    def reconstruction(self) -> Tensor:
        """Return the MAE loss: all patches embedded, put back in order and predicted."""
        backbone, mae = self.model.backbone, self.model.mim
        assert isinstance(mae, MAE)
        images, order = self.batch.weak, self.batch.mask_noise.argsort(dim=1)
        kept = len(mae.mask(self.batch.mask_noise).ids_keep[0])
        tokens = backbone.tokenize(images)
        chosen = order[:, :kept, None].expand(-1, -1, tokens.shape[-1])
        latent = mae.decoder_embed(backbone.encode(tokens.gather(1, chosen)))
        num_prefix = backbone.num_prefix_tokens
        missing = order.shape[1] - kept
        hidden = mae.mask_token.expand(len(images), missing, -1).to(latent.dtype)
        shuffled = torch.cat([latent[:, num_prefix:], hidden], dim=1)
        back = order.argsort(dim=1)[..., None].expand_as(shuffled)
        x = torch.cat([latent[:, :num_prefix], shuffled.gather(1, back)], dim=1)
        x = x + mae.decoder_pos_embed
        for block in mae.decoder_blocks:
            x = block(x)
        prediction = mae.decoder_pred(mae.decoder_norm(x))[:, num_prefix:]
        patches = patchify(images, backbone.patch_size)
        mean, var = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
        target = (patches - mean) / (var + 1e-6).sqrt()
        error = (prediction.float() - target).square().mean(dim=-1)
        mask = torch.ones_like(error).scatter(1, order[:, :kept], 0.0)
        loss: Tensor = (error * mask).sum() / mask.sum()
        return loss


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Weak and strong view of each image, by torchvision's transforms for PIL images."""

    def __init__(self, views: TrainViews) -> None:
        self.prepared, config = views.reader.prepared, views.config
        size = config.image_size
        crop: list[Any] = (
            [transforms.RandomCrop(size, config.crop_padding, padding_mode="reflect")]
            if config.crop == "pad"
            else [transforms.RandomResizedCrop(size, (config.crop_min_scale, 1.0))]
        )
        crop.append(transforms.RandomHorizontalFlip())
        finish = [transforms.ToTensor(), transforms.Normalize(views.mean, views.std)]
        strong = transforms.RandAugment(config.randaugment_ops, config.randaugment_magnitude)
        erase = transforms.RandomErasing(1.0, (0.05, 0.25), (1.0, 1.0))
        self.weak = transforms.Compose([*crop, *finish])
        self.strong = transforms.Compose([*crop, strong, *finish, erase])

    def __len__(self) -> int:
        return len(self.prepared.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        assert self.prepared.root is not None
        image = Image.open(Path(self.prepared.root) / self.prepared.names[index]).convert("RGB")
        return self.weak(image), self.strong(image)


class Loading:
    """The views of one step by a DataLoader: half of ``Views`` goes unused for labeled images."""

    def __init__(self, views: TrainViews, num_images: int) -> None:
        dataset = Views(views)
        order = [i % len(dataset) for i in range(num_images)]
        self.loader = DataLoader(dataset, batch_size=num_images, sampler=order)

    def step(self) -> None:
        """Make the views of one step."""
        for _ in self.loader:
            pass
