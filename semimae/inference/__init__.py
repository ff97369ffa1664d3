"""Using a trained model: opening its file, predicting, exporting, choosing what to label next."""
