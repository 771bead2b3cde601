"""Data: readers of annotation formats, the columnar index, images, transforms, samplers and loaders."""
