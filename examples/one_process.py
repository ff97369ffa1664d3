"""Train Semi-MAE on scikit-learn's digits and score it: one process, no DVC, no MLflow.

Usage: python examples/one_process.py [FOLDER]
"""

import sys
from pathlib import Path

import semimae

project = Path(__file__).parents[1]
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "one_process")

params = semimae.Params.read(project / "params.yaml")
cell = params.cell(method="semi_mae", mask_ratio=0.75, seed=0)
semimae.prepare(cell.dataset, params.data, folder, folder / "prepared")
images = semimae.Prepared.read(folder / "prepared", folder)
split = semimae.split_for(cell, images)
trained = semimae.fit(cell, images, split, params.train, folder / "run")
outputs = semimae.infer(trained.model, cell, images, split.test(images))
top1 = semimae.accuracy(outputs.probabilities, outputs.labels)
print(f"{len(split.labeled)} labels, test top-1 {100 * top1:.1f} %")
