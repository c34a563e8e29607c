"""Real coloured meshes to train priors on: packs of them, or a user's own files (`data.objects`)."""
