"""The networks as data: the table, what Keras makes of it, preprocessing, the emotions."""
