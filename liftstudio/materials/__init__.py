"""Materials: from appearance features to colour."""
