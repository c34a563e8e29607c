"""Training of priors: procedural objects, camera rigs, and one loop on Lightning's Trainer."""
