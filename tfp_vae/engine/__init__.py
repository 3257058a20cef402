"""A fast `fit` for any Keras model: many steps in one program, batches in stacks."""
