"""Real coloured meshes to train priors on, from packs or from the user's own files (`data.objects`)."""
