"""Training of priors: procedural and real objects, camera rigs, and one loop on Lightning's Trainer."""
