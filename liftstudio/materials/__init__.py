"""Materials: map appearance features and light to colour."""
