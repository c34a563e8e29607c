"""The values that are handed from one part to the next: cameras, images, meshes, renders."""
