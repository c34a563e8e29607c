"""The bundled prior of real objects: a 2D network that fills the viewing frustum of the input image."""
