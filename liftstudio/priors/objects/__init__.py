"""The bundled prior of real objects: a 2D network that fills the picture's own viewing frustum."""
