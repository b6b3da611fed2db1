"""Networks to hold a Keras file against."""
