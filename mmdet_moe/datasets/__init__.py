"""Data: generated pictures, domains, and checks of COCO-format data."""
