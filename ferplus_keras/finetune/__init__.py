"""Fine-tuning: recipes as data, targets, input pipeline, training loop, release."""
