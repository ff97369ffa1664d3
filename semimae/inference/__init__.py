"""Use a trained model: open its file, predict, export it, choose the images to label next."""
