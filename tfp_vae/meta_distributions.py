"""TFP's distributions of other distributions, as classes for `isinstance`.

`tfd.Independent(p)` has the class `tfd.Independent` only if p is a `CompositeTensor`,
as TFP's own families are. For others, such as a masked autoregressive flow or a user's
`tfd.Distribution`, TFP makes an instance of the first base of that class, which has all
of its methods. The classes here are these bases, of which both are instances. If TFP
changes this, `test_the_classes_are_bases_of_those_of_tfp` fails.
"""

from typing import Any

import tensorflow_probability as tfp

tfd: Any = tfp.distributions

BatchBroadcast = tfd.BatchBroadcast.__bases__[0]
BatchReshape = tfd.BatchReshape.__bases__[0]
Blockwise = tfd.Blockwise.__bases__[0]
Independent = tfd.Independent.__bases__[0]
Inflated = tfd.Inflated.__bases__[0]
Mixture = tfd.Mixture.__bases__[0]
MixtureSameFamily = tfd.MixtureSameFamily.__bases__[0]
QuantizedDistribution = tfd.QuantizedDistribution.__bases__[0]
Sample = tfd.Sample.__bases__[0]
