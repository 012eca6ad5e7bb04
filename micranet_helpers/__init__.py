"""MICRA-Net: segmentation, detection and counting from image-level labels."""
