"""What happens to training images before the model sees them; `pipeline` puts it together."""
