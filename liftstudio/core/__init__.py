"""What everything else stands on: configs, the registry, files, logs."""
