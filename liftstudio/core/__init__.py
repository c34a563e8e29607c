"""The foundation of all other packages: configs, the registry, files, logs."""
