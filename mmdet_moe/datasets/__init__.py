"""Data: the generated pictures, and checks of COCO-format data."""
