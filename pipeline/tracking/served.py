"""The model as MLflow runs it. MLflow stores a copy of this file, so it imports nothing of ours."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL import Image
from torch.nn.functional import interpolate


class ImageClassifier(PythonModel):  # type: ignore[misc]  # of MLflow, which has no types
    """Classifies uint8 images ``[B, H, W, C]`` of any size with a model of timm."""

    def load_context(self, context: Any) -> None:
        folder = context.artifacts["timm"]
        sys.stderr.write(Path(context.artifacts["about"]).read_text(encoding="utf-8"))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        self.model.eval().to(self.device)
        config = self.model.pretrained_cfg
        self.names, self.size = config["label_names"], config["input_size"][1]
        self.share = config["crop_pct"]
        self.mean, self.std = (
            torch.tensor(config[key]).mul(255).view(1, -1, 1, 1) for key in ("mean", "std")
        )

    @torch.no_grad()
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> pd.DataFrame:
        pixels = np.stack([self._scaled(image) for image in np.asarray(model_input)])
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) - self.mean) / self.std
        logits = self.model(images.to(self.device))
        probabilities = logits.double().softmax(dim=-1).cpu().numpy()  # [B, classes]
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "class": [self.names[index] for index in best],
                "probability": probabilities.max(axis=1),
                "probabilities": probabilities.tolist(),
            }
        )

    def _scaled(self, pixels: Any) -> Any:
        """Scale the central square of an image ``[H, W, C]`` to ``[S, S, C]``, as in training."""
        height, width, channels = pixels.shape
        side = min(width, height) * self.share
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        if self.share == 1:  # small images, which stage `prepare` scales by Pillow
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            scaled = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
            return np.asarray(scaled).reshape(self.size, self.size, channels)
        left, top, right, bottom = map(round, box)
        part = torch.from_numpy(np.array(pixels[top:bottom, left:right])).permute(2, 0, 1)
        sizes = (self.size, self.size)
        whole = interpolate(part.unsqueeze(0), sizes, mode="bicubic", antialias=True)
        return whole.squeeze(0).permute(1, 2, 0).numpy()


set_model(ImageClassifier())
