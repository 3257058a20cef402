"""`tv.Model` and `tv.Sequential`, whose `fit` runs many steps in one compiled call.

A program is one `tf.function` that loops over the batches of a stack; Keras calls the
number of its steps `steps_per_execution`. A stack is several batches of equal shape,
joined on a new first axis.
"""
